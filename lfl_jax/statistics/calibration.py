"""Whether the verdicts can be trusted: many simulated studies whose truth is known.

A simulated study has the design of a real one and its variances (`variances.design` takes both from
a study's runs), and a planted gap. Reported are how often a verdict is wrong, how often the
interval holds the truth, and how often a gap of a given size is found.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lfl_jax.errors import UserError
from lfl_jax.statistics import probit
from lfl_jax.statistics.frontier import FEWEST_CELLS, Arm, Axis, Curve, gap, mean_gap, pareto
from lfl_jax.statistics.verdicts import Verdict, decide


@dataclass(frozen=True)
class Shares:
    """Of the variance of one answer's score, what it has in common with other answers.

    item: with all answers to the item; arm_item, those of the arm's runs; cell_item, those of the
    cell's runs. seed: with all answers of the seed; arm_seed, those of the arm; run, of the run.
    """

    item: float = 0.0
    arm_item: float = 0.0
    cell_item: float = 0.0
    seed: float = 0.0
    arm_seed: float = 0.0
    run: float = 0.0

    @property
    def of_items(self) -> float:
        """In common with the same item under another seed."""
        return self.item + self.arm_item + self.cell_item

    @property
    def of_seeds(self) -> float:
        """In common with another item of the same run."""
        return self.seed + self.arm_seed + self.run

    @property
    def rest(self) -> float:
        """Of the answer alone."""
        return max(1 - self.of_items - self.of_seeds, 0.0)


@dataclass(frozen=True)
class MeasureModel:
    """One measure of a simulated study.

    means: each cell's truth, the same for both arms. deviations: of one answer, by cell, of normal
    scores; empty: answers are right or wrong, and the shares those of a normal score behind them.
    """

    means: tuple[float, ...]
    items: int
    shares: Shares
    deviations: tuple[float, ...] = ()

    def noise_width(self) -> float:
        """The standard deviation over seeds of one run's mean, pooled over cells: `noise.floor`."""
        if self.deviations:
            variance = np.square(self.deviations)
            of_seeds = self.shares.of_seeds * variance
            of_items = self.shares.of_items * variance
        else:
            p = np.array(self.means)
            variance = p * (1 - p)
            of_seeds = probit.covariance(p, p, self.shares.of_seeds)
            of_items = probit.covariance(p, p, self.shares.of_items)
        by_cell = of_seeds + (variance - of_items - of_seeds) / self.items
        return math.sqrt(float(np.mean(by_cell)))


@dataclass(frozen=True)
class Design:
    """What a simulated study looks like: two arms of the same cells."""

    seeds: int
    learning: MeasureModel
    forgetting: MeasureModel

    @property
    def noise_width(self) -> float:
        """Of forgetting."""
        return self.forgetting.noise_width()


@dataclass(frozen=True)
class Rates:
    """Shares of simulated studies by verdict; coverage: of the intervals, which hold the truth.

    gap: the true one. A study whose frontiers share too little is refused and counts as undecided,
    as a real one would.
    """

    studies: int
    gap: float
    more: float
    less: float
    equivalent: float
    undecided: float
    refused: float
    coverage: float


def assumed(
    seeds: int = 5,
    items: int = 256,
    learning: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.95),
    forgetting: tuple[float, float] = (0.05, 0.6),
    run: float = 0.06,
    item: float = 0.8,
    arm_item: float = 0.2,
) -> Design:
    """A design to plan with before there are runs. Scores are fractions of correct items.

    forgetting: at no and at all learning; straight in between. run, item, arm_item: standard
    deviations, in units of that of an answer alone (`Shares` says of what).
    """
    total = 1 + run**2 + item**2 + arm_item**2
    shares = Shares(item=item**2 / total, arm_item=arm_item**2 / total, run=run**2 / total)
    low, high = forgetting
    forgotten = tuple(low + (high - low) * learned for learned in learning)
    models = (MeasureModel(means, items, shares) for means in (learning, forgotten))
    return Design(seeds, *models)


def from_record(record: Mapping[str, Any]) -> Design:
    """A design from its `dataclasses.asdict`, as benchmarks/calibrate_study.py writes it."""
    models = [_model_from(record[name]) for name in ("learning", "forgetting")]
    return Design(record["seeds"], *models)


def simulate(design: Design, planted: float, rng: np.random.Generator) -> tuple[Arm, Arm]:
    """Two arms of one study; the first forgets `planted` more at every learning."""
    axes = {
        # Items are as hard for one arm as for the other, but for what an arm itself does to them.
        "x": _pair(design.seeds, design.learning, 0.0, rng),
        "y": _pair(design.seeds, design.forgetting, planted, rng),
    }
    first, second = zip(axes["x"], axes["y"], strict=True)
    return Arm("first", *first), Arm("second", *second)


def truth(design: Design, planted: float) -> float:
    """The gap of the simulated arms.

    Less than planted where answers are right or wrong and a cell's mean would leave 0 to 1.
    UserError for a frontier of a single cell, over which there is no gap.
    """
    x = np.array(design.learning.means)
    curves = []
    # Not the planted number itself: it is flattened at the end of the scale.
    for y in (_means(design.forgetting, planted), _means(design.forgetting, 0.0)):
        cells = pareto(x, y)
        if len(cells) < FEWEST_CELLS:
            raise UserError(
                f"the frontier has {len(cells)} cell of {len(x)}; a simulated study needs"
                f" {FEWEST_CELLS}: add learning rates"
            )
        curves.append(Curve(x[cells], y[cells]))
    return mean_gap(*curves)


def calibrate(design: Design, planted: float, margin: float, studies: int, seed: int = 0) -> Rates:
    """Simulated studies with a planted gap, each decided as a real one is."""
    rng = np.random.default_rng(seed)
    true_gap = truth(design, planted)
    outcomes = [_outcome(simulate(design, planted, rng), true_gap, margin) for _ in range(studies)]
    verdicts = [outcome.verdict for outcome in outcomes]
    shares = [verdicts.count(verdict) / studies for verdict in Verdict]
    covered = [outcome.covers for outcome in outcomes if outcome.covers is not None]
    coverage = sum(covered) / max(len(covered), 1)
    return Rates(studies, true_gap, *shares, 1 - len(covered) / studies, coverage)


class _Outcome(NamedTuple):
    """Of one simulated study; covers: whether its interval holds the truth, None without one."""

    verdict: Verdict
    covers: bool | None


def _outcome(arms: tuple[Arm, Arm], true_gap: float, margin: float) -> _Outcome:
    # As in a real study, a gap that cannot be computed leaves the question open.
    try:
        effect = gap(*arms).effect
    except UserError:
        return _Outcome(Verdict.UNDECIDED, None)
    low, high = effect.interval()
    return _Outcome(decide(effect, margin).verdict, low <= true_gap <= high)


def power(
    design: Design, margin: float, planted: Sequence[float], studies: int, seed: int = 0
) -> list[Rates]:
    """The power curve: how often each planted gap gets each verdict."""
    return [calibrate(design, gap, margin, studies, seed + i) for i, gap in enumerate(planted)]


def _model_from(record: Mapping[str, Any]) -> MeasureModel:
    # Lists are JSON's tuples, and a model is compared and hashed.
    means, deviations = (tuple(record[name]) for name in ("means", "deviations"))
    return MeasureModel(means, record["items"], Shares(**record["shares"]), deviations)


def _means(model: MeasureModel, planted: float) -> Float[np.ndarray, " P"]:
    means = np.array(model.means) + planted
    return means if model.deviations else np.clip(means, 0, 1)


def _pair(
    seeds: int, model: MeasureModel, planted: float, rng: np.random.Generator
) -> tuple[Axis, Axis]:
    """One measure of both arms: what items and seeds do to all runs is drawn once."""
    common = math.sqrt(model.shares.item) * rng.standard_normal(model.items)
    by_seed = math.sqrt(model.shares.seed) * rng.standard_normal(seeds)
    together = by_seed[:, None, None] + common
    first, second = (_axis(model, gap, together, rng) for gap in (planted, 0.0))
    return first, second


def _axis(
    model: MeasureModel,
    planted: float,
    together: Float[np.ndarray, "S 1 I"],
    rng: np.random.Generator,
) -> Axis:
    seeds, _, items = together.shape
    cells, shares = len(model.means), model.shares
    # What answers of this arm have in common, by the axes along which it is the same.
    drawn = [
        (shares.arm_item, (1, 1, items)),
        (shares.cell_item, (1, cells, items)),
        (shares.arm_seed, (seeds, 1, 1)),
        (shares.run, (seeds, cells, 1)),
        (shares.rest, (seeds, cells, items)),
    ]
    scores = together + sum(math.sqrt(share) * rng.standard_normal(shape) for share, shape in drawn)
    means = _means(model, planted)[:, None]
    if model.deviations:
        return Axis(means + np.array(model.deviations)[:, None] * scores)
    # Scores have unit variance, so that the share above the threshold is the mean.
    return Axis((scores > -stats.norm.ppf(means)).astype(np.float64))
