"""Means of per-example values with clustered standard errors, and paired before-after
differences."""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lfl_jax.errors import UserError
from lfl_jax.evals import intervals

Kind = Literal["proportion", "mean"]  # proportion: of values between 0 and 1


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` items, its standard error over `clusters` independent groups, and its 95 %
    interval.

    se, low and high are NaN for a single group.
    """

    mean: float
    se: float
    n: int
    clusters: int
    low: float = math.nan
    high: float = math.nan

    @property
    def is_decided(self) -> bool:
        """Of a change: whether its interval leaves out 0."""
        return self.low > 0 or self.high < 0


def mean(
    values: Sequence[float], clusters: Sequence[Hashable], weights: Sequence[float] | None = None
) -> Estimate:
    """Mean, or ratio of sums when weighted (nll per token: values nll/tokens, weights tokens).

    Cluster-robust standard error of the linearised ratio with the G/(G-1) correction (Miller, arXiv
    2411.00640): sqrt(G/(G-1) sum_g (sum_{i in g} w_i (x_i - mean))^2) / sum w. When every item is
    its own cluster and unweighted this is sample std / sqrt(n), what lm-evaluation-harness reports.
    Raises UserError when there is no item.
    """
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if not x.size or w.sum() == 0:
        raise UserError(
            "no items to average: the evaluation has no examples, or none with a scored token"
        )
    center = float(np.sum(w * x) / np.sum(w))
    se, count = _clustered(w * (x - center) / np.sum(w), clusters)
    n = int(np.count_nonzero(w))
    return Estimate(center, se, n, count, *intervals.student(center, se, count))


@dataclass(frozen=True)
class Column:
    """One metric's values, item by item: an item's value is its total / weight; weight 0 = it has
    none.

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
        return [
            total / weight if weight else 0.0
            for total, weight in zip(self.totals, self.weights, strict=True)
        ]

    def weighed_clusters(self) -> int:
        """How many clusters have an item that counts."""
        weighed = {
            cluster for cluster, weight in zip(self.clusters, self.weights, strict=True) if weight
        }
        return len(weighed)

    def take(self, indices: Sequence[int]) -> "Column":
        """These items, in this order."""
        parts = (self.ids, self.clusters, self.totals, self.weights)
        taken = Column(*(tuple(part[i] for i in indices) for part in parts))
        return taken.balanced(tuple(self.groups[i] for i in indices)) if self.groups else taken

    def without(self, ids: Collection[Hashable]) -> "Column":
        """The items whose ids are not among these."""
        return self.take([i for i, each in enumerate(self.ids) if each not in ids])

    def ordered_as(self, other: "Column") -> "Column":
        """The same items in the other's order; UserError when the two do not hold the same
        items."""
        index = {each: i for i, each in enumerate(self.ids)}
        if index.keys() != set(other.ids) or len(self.ids) != len(other.ids):
            raise UserError(
                f"before ({len(self.ids)} records) and after ({len(other.ids)}) are not of the same"
                " items: evaluate"
                " again"
            )
        return self.take([index[each] for each in other.ids])


def estimate(column: Column, interval: Kind = "mean", exponential: bool = False) -> Estimate:
    """`mean` of a column, with the interval of its kind; exponential: its exponential, by the delta
    method."""
    found = mean(column.values(), column.clusters, column.weights)
    if exponential:
        return _exponential(found)
    if interval == "mean" or not 0 <= min(column.values()) <= max(column.values()) <= 1:
        return found
    low, high = intervals.wilson(found.mean, _proportion_items(column, found))
    return replace(found, low=low, high=high)


def difference(
    before: Column, after: Column, interval: Kind = "mean", exponential: bool = False
) -> Estimate:
    """The change of a mean, with the clustered error of the paired difference, item by item, and
    its interval.

    Weights that differ (how many answers have a valid format) make it a difference of two ratios,
    whose error is that of their linearisations, still paired. Intervals: Tango's for proportions of
    items that are right or wrong, Student's for means and for items with a value in between, and
    Newcombe's for two ratios of proportions. Raises UserError when the two do not hold the same
    items.
    """
    before = before.ordered_as(after)
    if before.weights == after.weights and not exponential:
        changes = [x1 - x0 for x0, x1 in zip(before.values(), after.values(), strict=True)]
        found = mean(changes, after.clusters, after.weights)
        is_proportion = interval == "proportion" and _is_binary(before) and _is_binary(after)
        return _paired_proportion(found, changes, after) if is_proportion else found
    return _difference_of_ratios(before, after, interval, exponential)


def _difference_of_ratios(
    before: Column, after: Column, interval: Kind, exponential: bool
) -> Estimate:
    """Of the same items in the same order, whose weights differ: by the linearisation of each
    ratio."""
    first, last = (estimate(column, interval, exponential) for column in (before, after))
    influence = _influence(after, exponential) - _influence(before, exponential)
    se, clusters = _clustered(influence, after.clusters)
    change = last.mean - first.mean
    limits = intervals.student(change, se, clusters)
    if interval == "proportion":
        parts = [(weight, e.mean, (e.low, e.high)) for weight, e in ((1.0, last), (-1.0, first))]
        limits = intervals.combined(change, parts)
    return Estimate(change, se, max(first.n, last.n), clusters, *limits)


def plain_mean(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of independent estimates; `n` and `clusters` are their sums."""
    share = 1 / len(estimates)
    center = share * sum(e.mean for e in estimates)
    error = share * math.sqrt(sum(e.se**2 for e in estimates))
    limits = intervals.combined(center, [(share, e.mean, (e.low, e.high)) for e in estimates])
    return Estimate(
        center, error, sum(e.n for e in estimates), sum(e.clusters for e in estimates), *limits
    )


def _is_binary(column: Column) -> bool:
    """Whether every item is right or wrong, and counts once or not at all."""
    return set(column.values()) <= {0.0, 1.0} and set(column.weights) <= {0.0, 1.0}


def _proportion_items(column: Column, found: Estimate) -> float:
    """`intervals.effective_items` of a proportion, or of a mean of values between 0 and 1."""
    items = float(found.n)
    count = intervals.effective_items(
        variance=found.mean * (1 - found.mean),
        observed=_uncorrected(found),
        items=items,
        clusters=column.weighed_clusters(),
    )
    return min(count, items) if _is_binary(column) else count


def _paired_proportion(found: Estimate, changes: Sequence[float], column: Column) -> Estimate:
    """With Tango's interval; clusters make it one of fewer pairs."""
    n, gained, lost = found.n, changes.count(1.0), changes.count(-1.0)
    variance = (gained + lost) / n - found.mean**2
    count = intervals.effective_items(
        variance, _uncorrected(found), float(n), column.weighed_clusters()
    )
    share = min(count, n) / n
    low, high = intervals.tango(share * gained, share * lost, share * n)
    return replace(found, low=low, high=high)


def _uncorrected(found: Estimate) -> float:
    """The squared error without the correction G / (G - 1); 0 where it is not known."""
    g = found.clusters
    return 0.0 if g < 2 else found.se**2 * (g - 1) / g


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
    value, low, high = (_exp(x) for x in (found.mean, found.low, found.high))
    return Estimate(value, value * found.se, found.n, found.clusters, low, high)


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)


def near_chance(estimate: Estimate, chance: float) -> bool:
    """Whether a score is within 3 standard errors of guessing, or below: it then has no headroom to
    forget."""
    return not estimate.mean - chance > 3 * estimate.se
