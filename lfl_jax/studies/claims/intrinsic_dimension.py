"""d90: how many random directions learn 90 % of what full finetuning learns, and the claim of few.

The intrinsic dimension of Li et al. (arXiv 1804.08838) and Aghajanyan et al. (arXiv 2012.13255), of
a study that has arms of kind "subspace" with several d and full finetuning of the same weights. The
papers count the score itself; here it is what was gained over the base, so that an untrained model
has reached nothing. Between two d the share is interpolated in the log of d.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.statistics import resampling
from lfl_jax.statistics.effects import Effect, in_words
from lfl_jax.statistics.frontier import Axis
from lfl_jax.statistics.resampling import Means
from lfl_jax.studies.arms import Grid, base_learning
from lfl_jax.studies.claims import best
from lfl_jax.studies.claims.claim import Checked, Status, doubted, untested
from lfl_jax.studies.claims.lora_and_full import SHARE_OF_GAIN
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.records.run_measures import TRAINABLE
from lfl_jax.studies.traits import FULL, SUBSPACE

# Of what full finetuning gained over the base.
SHARE = 0.9
# "Few": of the weights that full finetuning trains. The papers have 0.03 % to 5 %.
FEW = 0.01
NO_ARMS = "no two arms of random subspaces of several sizes, with full finetuning beside them"


@dataclass(frozen=True)
class Reached:
    """An arm at its best learning rate. numbers: that train. share: of full finetuning's gain."""

    method: str
    numbers: int
    share: Effect
    is_at_edge: bool


@dataclass(frozen=True)
class Dimension:
    """subspaces: by rising d. weights: numbers that `full` trains. log2: of d90, or why not.

    edges: those that d90 rests on whose sweep does not level off at its edge, the best rate.
    """

    full: str
    weights: int
    subspaces: tuple[Reached, ...] = ()
    log2: Effect | None = None
    reason: str = ""
    edges: tuple[str, ...] = ()

    @property
    def d90(self) -> float | None:
        """In numbers that train."""
        return None if self.log2 is None else float(2**self.log2.mean)

    def interval(self) -> tuple[float | None, float | None]:
        """95 %, of d90."""
        if self.log2 is None:
            return None, None
        low, high = self.log2.interval()
        return 2**low, 2**high

    def __str__(self) -> str:
        if self.log2 is None:
            return f"d90 is not known: {self.reason}"
        numbers = in_words(self.d90, self.interval(), ",.0f")
        share = self.d90 / self.weights
        return f"d90 = {numbers}, {share:.2%} of the {self.weights:,} that {self.full} trains"


def measure(findings: Findings) -> Dimension | None:
    """Of a study; None where it has no such arms."""
    methods = _arms(findings)
    if len(methods) < 3:
        return None
    grids = [findings.grids[method] for method in methods]
    full, weights = methods[0], numbers_of(grids[0])
    try:
        # one length for all: what a longer run learns more is not the subspace's
        length = best.shared_length(grids)
        arms = tuple(_reached(findings, method, full, length) for method in methods[1:])
    except UserError as error:
        return Dimension(full, weights, reason=str(error))

    # with a better rate an arm would reach more, and full finetuning, too
    edges = tuple(arm.method for arm in _deciding(arms) if arm.is_at_edge)
    edges += (full,) if _still_rises(grids[0], length, _base(findings)) else ()
    if reason := _refusal(arms):
        return Dimension(full, weights, arms, reason=reason, edges=edges)
    log2 = _crossing_of_all([_learned(grid, length) for grid in grids], arms, _base(findings))
    return Dimension(full, weights, arms, log2, edges=edges)


def _crossing_of_all(axes: Sequence[Axis], arms: Sequence[Reached], base: float) -> Effect:
    """axes: full finetuning's, then the arms'. All are drawn anew together: they share seeds."""
    log2_d = np.log2([float(arm.numbers) for arm in arms])

    def crossings(means: Means) -> Float[np.ndarray, " B"]:
        return crossing(np.stack(_shares(means[0], base), axis=1), log2_d)

    return resampling.effect(crossings, [axes])


def _arms(findings: Findings) -> list[str]:
    """Full finetuning, then the most subspaces that differ in d alone, by rising d."""
    groups: dict[tuple, list[str]] = defaultdict(list)
    for method, traits in findings.traits.items():
        # Runs of which scores alone are known do not say how many numbers trained.
        if TRAINABLE in findings.grids[method].measures and traits.kind in (FULL, SUBSPACE):
            groups[traits.kind, traits.targets, traits.rest].append(method)
    full = [group[0] for (kind, *_), group in groups.items() if kind == FULL][:1]
    subspaces = [group for (kind, *_), group in groups.items() if kind == SUBSPACE]
    family = max(subspaces, key=len, default=[])
    by_d = sorted(family, key=lambda method: numbers_of(findings.grids[method]))
    return [*full, *by_d] if full else []


def _reached(findings: Findings, method: str, full: str, length: int) -> Reached:
    grid = findings.grids[method]
    share = share_of_gain(findings, method, full, length)
    rises = _still_rises(grid, length, _base(findings))
    return Reached(method, numbers_of(grid), share, rises)


def _still_rises(grid: Grid, length: int, base: float) -> bool:
    """Whether the best rate is the edge of a sweep that does not level off there."""
    if not best.is_at_edge(grid, length):
        return False
    means = _learned(grid, length).means()
    last, before = (means[0], means[1:2]) if np.argmax(means) == 0 else (means[-1], means[-2:-1])
    # Where nearly all is learned, more of it hangs on nothing: the next rate learns as much.
    return not np.any(before - base >= (1 - SHARE_OF_GAIN) * (last - base))


def share_of_gain(findings: Findings, method: str, full: str, length: int) -> Effect:
    """What a method gained over the base, as a share of what `full` did, each at its best rate.

    length: of their runs. UserError where full finetuning gained nothing.
    """
    axes = [_learned(findings.grids[name], length) for name in (full, method)]
    base, most = _base(findings), float(axes[0].means().max())
    if not most > base:
        raise UserError(f"{full} learned nothing: {most:.3g}, and the base has {base:.3g}")
    return resampling.effect(lambda means: _shares(means[0], base)[0], [axes])


def _base(findings: Findings) -> float:
    return base_learning(findings.base, findings.question.measures.learning)


def crossing(
    shares: Float[np.ndarray, "B K"], log2_d: Float[np.ndarray, " K"]
) -> Float[np.ndarray, " B"]:
    """log2 of the first d with SHARE, on the line from the d before it.

    Where no d reaches it, the largest one; where the smallest does already, that one: a draw of the
    bootstrap is not extrapolated.
    """
    # The first crossing: noise may take a larger d below it again.
    reached = shares >= SHARE
    above = np.where(reached.any(axis=1), np.argmax(reached, axis=1), len(log2_d) - 1)
    below = np.maximum(above - 1, 0)
    rows = np.arange(len(shares))
    low, high = shares[rows, below], shares[rows, above]
    # Only a line that rises through SHARE is interpolated on.
    rises = (low < SHARE) & (high >= SHARE)
    part = np.where(rises, (SHARE - low) / np.where(rises, high - low, 1.0), 1.0)
    return log2_d[below] + part * (log2_d[above] - log2_d[below])


def few_are_enough(findings: Findings) -> Checked:
    """d90 is below FEW of the weights. Null: it is FEW of them."""
    dimension = measure(findings)
    if dimension is None:
        return untested(NO_ARMS)
    if not dimension.subspaces:
        return untested(dimension.reason)
    checked = _few(dimension) if dimension.log2 else _few_beyond(dimension)
    if not dimension.edges:
        return checked
    names = ", ".join(dimension.edges)
    reason = f"the best learning rate of {names} is the edge of a sweep that still rises there"
    return doubted(doubted(checked, Status.REPRODUCED, reason), Status.CONTRADICTED, reason)


def _few(dimension: Dimension) -> Checked:
    null = float(np.log2(FEW * dimension.weights))
    low, high = dimension.log2.interval()
    # one seed has no interval, and no p-value that could be corrected
    if math.isnan(low):
        return Checked(Status.UNDECIDED, str(dimension))
    p = dimension.log2.p_value(null)
    if high < null:
        return Checked(Status.REPRODUCED, str(dimension), p)
    return Checked(Status.CONTRADICTED if low > null else Status.UNDECIDED, str(dimension), p)


def _few_beyond(dimension: Dimension) -> Checked:
    """Where d90 lies outside of the sizes that were trained, which may decide it nevertheless."""
    smallest, largest = dimension.subspaces[0], dimension.subspaces[-1]
    few = FEW * dimension.weights
    _, high = largest.share.interval()
    if high < SHARE and largest.numbers >= few:
        return Checked(Status.CONTRADICTED, str(dimension), largest.share.p_value(SHARE))
    low, _ = smallest.share.interval()
    if low > SHARE and smallest.numbers <= few:
        return Checked(Status.REPRODUCED, str(dimension), smallest.share.p_value(SHARE))
    return Checked(Status.UNDECIDED, str(dimension))


def _deciding(arms: Sequence[Reached]) -> Sequence[Reached]:
    """Those on both sides of d90, or the one nearest to it."""
    above = next((k for k, arm in enumerate(arms) if arm.share.mean >= SHARE), len(arms))
    return arms[max(above - 1, 0) : above + 1]


def _refusal(arms: Sequence[Reached]) -> str:
    """Why there is no d90 between the sizes; "" where there is."""
    if arms[0].share.mean >= SHARE:
        return (
            f"the smallest d, {arms[0].numbers}, reaches {arms[0].share.mean:.0%} of what full"
            " finetuning learned already; add smaller ones"
        )
    # not the last arm: the largest d need not be the best one
    most = max(arms, key=lambda arm: arm.share.mean)
    if most.share.mean < SHARE:
        return (
            f"no d up to {arms[-1].numbers} reaches {SHARE:.0%} of what full finetuning learned"
            f" ({most.numbers}: {most.share.mean:.0%}); add larger ones"
        )
    return ""


def _shares(means: list[Float[np.ndarray, "B _"]], base: float) -> list[Float[np.ndarray, " B"]]:
    """Of every method but the first, which is full finetuning, each at its best rate of a draw."""
    full, *others = (of_method.max(axis=1) - base for of_method in means)
    return [gained / full for gained in others]


def _learned(grid: Grid, length: int) -> Axis:
    cells = grid.of_length(length)
    return Axis(grid.arm.x.values[:, cells], grid.arm.x.clusters)


def numbers_of(grid: Grid) -> int:
    """How many numbers train in a method's runs."""
    return int(grid.measures[TRAINABLE][0, 0])
