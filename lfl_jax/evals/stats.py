"""Means of per-example values with clustered standard errors, and paired before-after differences."""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lfl_jax.errors import UserError


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` items, its standard error over `clusters` independent groups; `se` is NaN for one group."""

    mean: float
    se: float
    n: int
    clusters: int


def mean(values: Sequence[float], clusters: Sequence[Hashable], weights: Sequence[float] | None = None) -> Estimate:
    """Mean, or ratio of sums when weighted (nll per token: values nll/tokens, weights tokens).

    Cluster-robust standard error of the linearised ratio with the G/(G-1) correction (Miller, arXiv 2411.00640):
    sqrt(G/(G-1) sum_g (sum_{i in g} w_i (x_i - mean))^2) / sum w. When every item is its own cluster and unweighted
    this is sample std / sqrt(n), what lm-evaluation-harness reports. Raises UserError when there is no item.
    """
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if not x.size or w.sum() == 0:
        raise UserError("no items to average: the evaluation has no examples, or none with a scored token")
    center = float(np.sum(w * x) / np.sum(w))
    se, count = _clustered(w * (x - center) / np.sum(w), clusters)
    return Estimate(center, se, int(np.count_nonzero(w)), count)


@dataclass(frozen=True)
class Column:
    """One metric's values, item by item: an item's value is its total / weight; weight 0 = it has none.

    groups: of a mean over groups of their means, each item's group.
    """

    ids: tuple[Hashable, ...]
    clusters: tuple[Hashable, ...]
    totals: tuple[float, ...]
    weights: tuple[float, ...]
    groups: tuple[Hashable, ...] = ()

    def balanced(self, groups: tuple[Hashable, ...]) -> "Column":
        """The column with items weighted so that every group counts alike."""
        sizes = Counter(groups)
        weights = tuple(1.0 / sizes[group] for group in groups)
        totals = tuple(value * weight for value, weight in zip(self.values(), weights, strict=True))
        return Column(self.ids, self.clusters, totals, weights, groups)

    def values(self) -> list[float]:
        """Each item's value, 0 where it has none."""
        return [total / weight if weight else 0.0 for total, weight in zip(self.totals, self.weights, strict=True)]

    def take(self, indices: Sequence[int]) -> "Column":
        """These items, in this order."""
        parts = (self.ids, self.clusters, self.totals, self.weights)
        taken = Column(*(tuple(part[i] for i in indices) for part in parts))
        return taken.balanced(tuple(self.groups[i] for i in indices)) if self.groups else taken

    def without(self, ids: Collection[Hashable]) -> "Column":
        """The items whose ids are not among these."""
        return self.take([i for i, each in enumerate(self.ids) if each not in ids])

    def ordered_as(self, other: "Column") -> "Column":
        """The same items in the other's order; UserError when the two do not hold the same items."""
        index = {each: i for i, each in enumerate(self.ids)}
        if index.keys() != set(other.ids) or len(self.ids) != len(other.ids):
            raise UserError(
                f"before ({len(self.ids)} records) and after ({len(other.ids)}) are not of the same items: evaluate"
                " again"
            )
        return self.take([index[each] for each in other.ids])


def estimate(column: Column, exponential: bool = False) -> Estimate:
    """`mean` of a column; exponential: its exponential, with the delta method's standard error."""
    found = mean(column.values(), column.clusters, column.weights)
    return _exponential(found) if exponential else found


def difference(before: Column, after: Column, exponential: bool = False) -> Estimate:
    """The change of a mean, with the clustered error of the paired difference, item by item.

    Weights that differ (how many answers have a valid format) make it a difference of two ratios, whose error is that
    of their linearisations, still paired. Raises UserError when the two do not hold the same items.
    """
    before = before.ordered_as(after)
    if before.weights == after.weights and not exponential:
        changes = [x1 - x0 for x0, x1 in zip(before.values(), after.values(), strict=True)]
        return mean(changes, after.clusters, after.weights)
    first, last = estimate(before, exponential), estimate(after, exponential)
    influence = _influence(after, exponential) - _influence(before, exponential)
    se, clusters = _clustered(influence, after.clusters)
    return Estimate(last.mean - first.mean, se, len(after.ids), clusters)


def _influence(column: Column, exponential: bool) -> np.ndarray:
    """What each item adds to the error of the mean, or of its exponential."""
    w, x = np.asarray(column.weights), np.asarray(column.values())
    center = float(np.sum(w * x) / np.sum(w))
    slope = _exp(center) if exponential else 1.0
    return slope * w * (x - center) / np.sum(w)


def _clustered(influence: np.ndarray, clusters: Sequence[Hashable]) -> tuple[float, int]:
    groups = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    sums = np.bincount([groups[c] for c in clusters], weights=influence, minlength=len(groups))
    g = len(groups)
    return (math.sqrt(g / (g - 1) * float(np.sum(sums**2))) if g > 1 else math.nan), g


def _exponential(found: Estimate) -> Estimate:
    value = _exp(found.mean)
    return Estimate(value, value * found.se, found.n, found.clusters)


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def near_chance(estimate: Estimate, chance: float) -> bool:
    """Whether a score is within 3 standard errors of guessing, or below: it then has no headroom to forget."""
    return not estimate.mean - chance > 3 * estimate.se
