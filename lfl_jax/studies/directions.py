"""Which directions the finished runs of a study change, and what of that they share.

The LoRA paper's questions (Hu et al., arXiv 2106.09685, sections 7.2 and 7.3) over seeds. Runs are
compared pair by pair: of two arms with the same seed, whose order of data is the same, and with
other seeds. Pairs that share a seed are not independent evidence: means over pairs have the error
that leaving out each seed gives (`statistics.jackknife`).

Letters: S seeds, N the size of a space, I and J directions.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.analysis import decompose, subspaces, weight_changes
from lfl_jax.analysis.subspaces import Amplification
from lfl_jax.analysis.weight_change import WeightChange
from lfl_jax.core.types import Params
from lfl_jax.model import Model
from lfl_jax.statistics import jackknife
from lfl_jax.statistics.effects import Effect, over_seeds

# Of LoRA's factor A, which the paper compares; of dW's inputs and outputs, which every change has.
FACTOR, INPUTS, OUTPUTS = "A", "inputs", "outputs"
SPACES = (FACTOR, INPUTS, OUTPUTS)
# A norm below every norm that is measured.
NOTHING = 1e-30
# Pairs of runs, by their seeds.
SAME, OTHER = "same", "other"

# {weight: the singular values of W}, which runs of one base share.
BaseSpectra = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class WeightDirections:
    """The first directions of one weight's change in one run, by space.

    amplification: of W in so many of its directions.
    """

    module: str
    layer: int
    by_space: Mapping[str, Float[np.ndarray, "N I"]]
    amplification: Amplification
    directions: int


# {weight: its directions}
RunDirections = Mapping[str, WeightDirections]


def of_run(
    base: Params,
    tuned: Model,
    count: int,
    spectra: BaseSpectra,
    chosen: Callable[[str], bool] = lambda name: True,
) -> RunDirections:
    """Of every chosen weight that the run adapts or trains; UserError for a change that is zero.

    count: directions that are kept. spectra: filled with what is missing.
    """
    by_weight = {}
    for change in weight_changes.of_model(base, tuned, chosen):
        # Factors of rank 0 are of a weight that nothing adapts.
        if change.factors is None or change.factors[0].shape[1]:
            by_weight[change.name] = _of_weight(change, count, spectra)
    return by_weight


def _of_weight(change: WeightChange, count: int, spectra: BaseSpectra) -> WeightDirections:
    # The paper takes as many directions as the adapter has.
    wanted = count if change.factors is None else change.factors[0].shape[1]
    svd = subspaces.directions(change, wanted)
    by_space = {INPUTS: svd.u[:, :count], OUTPUTS: svd.vt[:count].T}
    factor = subspaces.directions_of_a(change, count)
    if factor is not None:
        by_space[FACTOR] = factor.u

    w = change.base()
    if change.name not in spectra:
        spectra[change.name] = decompose.of_matrix(w).s
    # Of the singular values their norm alone counts, which a dense change has without an SVD.
    s = svd.s if change.factors is not None else np.array([np.linalg.norm(change.dense())])
    amplified = subspaces.amplification(w, svd.u, s, svd.vt.T, spectra[change.name])
    module = change.path.rpartition("/")[2]
    # Those of all runs are in memory at once.
    halved = {space: u.astype(np.float32) for space, u in by_space.items()}
    return WeightDirections(module, change.layer, halved, amplified, len(svd.s))


@dataclass(frozen=True, eq=False)
class Overlap:
    """`subspaces.similarities` of one weight's directions, of every pair of two arms' runs.

    size: of the space. values: [s, t] of first's seed s with second's seed t, (S, S, I, J).
    """

    first: str
    second: str
    space: str
    module: str
    layer: int
    size: int
    values: Float[np.ndarray, "S S I J"]


@dataclass(frozen=True)
class Similarity:
    """phi of the first i directions with the first j, over weights and pairs; random: the null."""

    effect: Effect
    random: float

    @property
    def beyond(self) -> Effect:
        """What is shared beyond random directions."""
        return dataclasses.replace(self.effect, mean=self.effect.mean - self.random)


@dataclass(frozen=True, eq=False)
class Amplified:
    """`Amplification` of one weight in an arm's runs, by seed. directions: of how many."""

    arm: str
    module: str
    layer: int
    directions: int
    by_seed: tuple[Amplification, ...]

    def log10_of(self, field: str) -> Float[np.ndarray, " S"]:
        """The log of one of its fields, by seed."""
        values = [getattr(one, field) for one in self.by_seed]
        # Of nothing there is no log: what rounding alone would leave stands for it.
        return np.log10(np.maximum(values, NOTHING))

    def log10(self, numerator: str, denominator: str) -> Float[np.ndarray, " S"]:
        """The log of a ratio of two fields, by seed."""
        return self.log10_of(numerator) - self.log10_of(denominator)


@dataclass(frozen=True, eq=False)
class Directions:
    """Everything that is compared. ranks: of arms with LoRA, ascending. others: all other arms."""

    ranks: Mapping[str, int]
    others: tuple[str, ...]
    seeds: tuple[int, ...]
    overlaps: tuple[Overlap, ...]
    amplified: tuple[Amplified, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """Those with LoRA first, by rank."""
        return (*self.ranks, *self.others)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Two arms, or an arm and itself."""
        return list(itertools.combinations_with_replacement(self.arms, 2))

    @property
    def modules(self) -> list[str]:
        """In the order of a layer."""
        return list(dict.fromkeys(one.module for one in self.amplified))

    def of(
        self, first: str, second: str, space: str, module: str = "", layer: int | None = None
    ) -> list[Overlap]:
        """Of every weight of a pair, or of one module or layer."""
        return [
            one
            for one in self.overlaps
            if (one.first, one.second, one.space) == (first, second, space)
            and module in ("", one.module)
            and layer in (None, one.layer)
        ]

    def amplified_by(self, arm: str, module: str = "", layer: int | None = None) -> list[Amplified]:
        """Of every weight of an arm, or of one module or layer."""
        return [
            one
            for one in self.amplified
            if one.arm == arm and module in ("", one.module) and layer in (None, one.layer)
        ]


def compare(
    runs: Mapping[str, Sequence[RunDirections]], ranks: Mapping[str, int], seeds: Sequence[int]
) -> Directions:
    """Every pair of arms, weight by weight; runs: of each arm, in the order of the seeds.

    ranks: of the arms with LoRA.
    """
    by_rank = dict(sorted(ranks.items(), key=lambda pair: pair[1]))
    others = tuple(arm for arm in runs if arm not in ranks)
    amplified = itertools.chain(*(_amplified(arm, runs[arm]) for arm in (*by_rank, *others)))
    alone = Directions(by_rank, others, tuple(seeds), (), tuple(amplified))
    overlaps = itertools.chain(*(_overlaps(pair, runs) for pair in alone.pairs))
    return Directions(by_rank, others, tuple(seeds), tuple(overlaps), alone.amplified)


def _amplified(arm: str, runs: Sequence[RunDirections]) -> Iterator[Amplified]:
    for name, one in runs[0].items():
        by_seed = tuple(run[name].amplification for run in runs)
        yield Amplified(arm, one.module, one.layer, one.directions, by_seed)


def _overlaps(
    pair: tuple[str, str], runs: Mapping[str, Sequence[RunDirections]]
) -> Iterator[Overlap]:
    first, second = (runs[arm] for arm in pair)
    for name, one in first[0].items():
        if name not in second[0]:
            continue
        for space in SPACES:
            if all(space in run[name].by_space for run in (*first, *second)):
                u, v = (_stacked(of, name, space) for of in (first, second))
                yield Overlap(*pair, space, one.module, one.layer, u.shape[1], _similarities(u, v))


def _stacked(runs: Sequence[RunDirections], name: str, space: str) -> Float[np.ndarray, "S N I"]:
    directions = [run[name].by_space[space] for run in runs]
    # A run of lower rank than others has fewer.
    fewest = min(u.shape[1] for u in directions)
    return np.stack([u[:, :fewest] for u in directions])


def _similarities(
    u: Float[np.ndarray, "S N I"], v: Float[np.ndarray, "S N J"]
) -> Float[np.ndarray, "S S I J"]:
    """`subspaces.similarities` of every pair."""
    tables = itertools.starmap(subspaces.similarities, itertools.product(u, v))
    flat = np.stack(list(tables))
    return flat.reshape(len(u), len(v), *flat.shape[1:])


def similarity(overlaps: Sequence[Overlap], i: int, j: int, seeds: str) -> Similarity:
    """Of the first i and j directions, the mean over weights; seeds: SAME or OTHER."""
    means = np.mean([one.values[..., i - 1, j - 1] for one in overlaps], axis=0)
    # Modules have spaces of different sizes.
    null = np.mean([subspaces.random_similarity(one.size, i, j).mean for one in overlaps])
    effect = over_seeds(np.diagonal(means)) if seeds == SAME else jackknife.over_pairs(means)
    return Similarity(effect, float(null))


def comparisons(compared: Directions) -> Iterator[tuple[str, str, str]]:
    """(first arm, second arm, SAME or OTHER) of everything that can be compared.

    A run with itself is no pair, and one seed has no other.
    """
    for first, second in compared.pairs:
        if first != second:
            yield first, second, SAME
        if len(compared.seeds) > 1:
            yield first, second, OTHER


def log_ratio(
    weights: Sequence[Amplified], numerator: str, denominator: str
) -> Float[np.ndarray, " S"]:
    """log10 of a ratio of two fields of `Amplification`, the mean over weights, by seed."""
    return np.mean([one.log10(numerator, denominator) for one in weights], axis=0)
