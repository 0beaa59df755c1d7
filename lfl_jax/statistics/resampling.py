"""Errors of statistics that choose among cells, with the choice repeated in every draw.

A study that chose its best learning rate from other seeds or items would at times have chosen
another one. A formula for the error of a mean knows nothing of that; a bootstrap that repeats the
choice does. Seeds and clusters of items are drawn with replacement, both alike for all arms, so
that arms stay paired (the pigeonhole bootstrap; Owen, Annals of Applied Statistics 1, 2007).
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.statistics.effects import Effect
from lfl_jax.statistics.frontier import Axis

DRAWS = 400

# The cells' means by draw, (B, P) for every axis of every group -> the statistic by draw.
Means = list[list[Float[np.ndarray, "B _"]]]
Statistic = Callable[[Means], Float[np.ndarray, " B"]]


def effect(
    statistic: Statistic, groups: Sequence[Sequence[Axis]], draws: int = DRAWS, seed: int = 0
) -> Effect:
    """The statistic of all seeds and items, with its error.

    groups: axes that were scored on the same items, in groups; all have the same seeds. The
    variance is that of drawing seeds, plus that of drawing items, less what both count (as
    `effects` has it), with Satterthwaite's degrees of freedom.
    """
    rng = np.random.default_rng(seed)
    resample = _Sample(statistic, groups)
    all_seeds, all_items = _all(resample.seeds), list(map(_all, resample.clusters))
    value = float(resample.values(all_seeds, all_items)[0])
    if resample.seeds < 2:
        return Effect(value, math.nan, 0.0, resample.seeds)

    some_seeds = _drawn(rng, resample.seeds, draws)
    some_items = [_drawn(rng, count, draws) for count in resample.clusters]
    by_seeds = float(np.var(resample.values(some_seeds, all_items), ddof=1))
    by_items = float(np.var(resample.values(all_seeds, some_items), ddof=1))
    by_both = float(np.var(resample.values(some_seeds, some_items), ddof=1))

    # Drawing both adds their interaction, which drawing either has once already.
    interaction = max(by_both - by_seeds - by_items, 0.0)
    # Seeds drawn from a few vary less than new ones would, by (S - 1) / S.
    by_seeds *= resample.seeds / (resample.seeds - 1)
    return _with_error(value, by_seeds, max(by_items - interaction, 0.0), resample)


@dataclass(frozen=True)
class _Sample:
    """A statistic with what it is drawn from."""

    statistic: Statistic
    groups: Sequence[Sequence[Axis]]

    @property
    def seeds(self) -> int:
        """The number of seeds, which all axes share."""
        return len(self.groups[0][0].values)

    @functools.cached_property
    def labels(self) -> list[Int[np.ndarray, " I"]]:
        """Each group's items' clusters."""
        return [group[0].part(0).labels() for group in self.groups]

    @property
    def clusters(self) -> list[int]:
        """The number of each group's clusters."""
        return [int(labels.max()) + 1 for labels in self.labels]

    def values(
        self, of_seeds: Float[np.ndarray, "#B S"], of_clusters: Sequence[Float[np.ndarray, "#B _"]]
    ) -> Float[np.ndarray, " B"]:
        """By draw, of how often it drew each seed and each group's clusters.

        A single row of either holds in all draws.
        """
        draws = max(len(of_seeds), len(of_clusters[0]))
        weights = np.broadcast_to(of_seeds, (draws, self.seeds))
        means = []
        for group, labels, drawn in zip(self.groups, self.labels, of_clusters, strict=True):
            items = np.broadcast_to(drawn, (draws, drawn.shape[1]))[:, labels]
            means.append([_weighted(axis, weights, items) for axis in group])
        return self.statistic(means)


def _weighted(
    axis: Axis, seeds: Float[np.ndarray, "B S"], items: Float[np.ndarray, "B I"]
) -> Float[np.ndarray, "B P"]:
    """Each cell's mean in each draw."""
    over_items = axis.values @ (items / items.sum(axis=1, keepdims=True)).T
    return np.einsum("bs,spb->bp", seeds / seeds.sum(axis=1, keepdims=True), over_items)


def _all(count: int) -> Float[np.ndarray, "1 N"]:
    return np.ones((1, count))


def _drawn(rng: np.random.Generator, count: int, draws: int) -> Float[np.ndarray, "B N"]:
    """How often each is drawn."""
    return rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)


def _with_error(value: float, of_seeds: float, of_items: float, sampled: _Sample) -> Effect:
    """By Satterthwaite, as in `effects`."""
    variance, squares = of_seeds + of_items, of_seeds**2 / (sampled.seeds - 1)
    # A group of a single cluster, such as a run's loss, has nothing to draw from.
    clusters = [count for count in sampled.clusters if count > 1]
    if clusters:
        squares += of_items**2 / (min(clusters) - 1)
    df = variance**2 / squares if squares > 0 else float(sampled.seeds - 1)
    return Effect(value, math.sqrt(variance), df, sampled.seeds, sum(clusters))
