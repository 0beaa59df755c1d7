"""Means of per-item values with clustered standard errors, and paired before-after differences."""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.evals import intervals

Kind = Literal["proportion", "mean"]  # proportion: of values between 0 and 1


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` items in `clusters` independent groups: standard error, 95 % interval.

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
    """The mean, or with weights the ratio of sums; UserError without items.

    nll per token: values nll / tokens, weights tokens. The standard error is the cluster-robust
    one of the linearised ratio, with the G / (G - 1) correction (Miller, arXiv 2411.00640):
        sqrt(G / (G - 1) sum_g (sum_{i in g} w_i (x_i - mean))^2) / sum w
    Where every item is its own cluster and has weight 1, this is the sample standard deviation /
    sqrt(n), which lm-evaluation-harness reports.
    """
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if not x.size or w.sum() == 0:
        raise UserError(
            "no items to average: the evaluation has no examples, or none with a scored token"
        )
    center = float(np.sum(w * x) / np.sum(w))
    # What item i adds to the linearised ratio; within a cluster these are not independent.
    se, groups = _clustered_error(w * (x - center) / np.sum(w), clusters)
    n = int(np.count_nonzero(w))  # items of weight 0 have no value
    return Estimate(center, se, n, groups, *intervals.student(center, se, groups))


@dataclass(frozen=True)
class Column:
    """The values of one metric, item by item: total / weight, or none where the weight is 0.

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
        """The value of every item, 0 where it has none."""
        pairs = zip(self.totals, self.weights, strict=True)
        return [total / weight if weight else 0.0 for total, weight in pairs]

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether every item's value is 0 or 1."""
        return set(self.values()) <= {0.0, 1.0}

    def weighed_clusters(self) -> int:
        """How many clusters have an item with a value."""
        pairs = zip(self.clusters, self.weights, strict=True)
        return len({cluster for cluster, weight in pairs if weight})

    def take(self, indices: Sequence[int]) -> "Column":
        """These items, in this order."""
        parts = (self.ids, self.clusters, self.totals, self.weights)
        column = Column(*(_take(part, indices) for part in parts))
        # Fewer items make smaller groups, whose items weigh more.
        return column.balanced(_take(self.groups, indices)) if self.groups else column

    def without(self, ids: Collection[Hashable]) -> "Column":
        """The items whose ids are not among these."""
        return self.take([i for i, item_id in enumerate(self.ids) if item_id not in ids])

    def ordered_as(self, other: "Column") -> "Column":
        """The same items in the other's order; UserError where the items differ."""
        index = {item_id: i for i, item_id in enumerate(self.ids)}
        # Lengths too: sets do not see an id that occurs twice.
        if index.keys() != set(other.ids) or len(self.ids) != len(other.ids):
            raise UserError(
                f"before ({len(self.ids)} records) and after ({len(other.ids)}) are not of the same"
                " items: evaluate again"
            )
        return self.take([index[item_id] for item_id in other.ids])


def _take(values: tuple, indices: Sequence[int]) -> tuple:
    return tuple(values[i] for i in indices)


def estimate(column: Column, interval: Kind = "mean", exponential: bool = False) -> Estimate:
    """`mean` of a column, with the interval of its kind.

    exponential: of exp(mean), by the delta method.
    """
    average = mean(column.values(), column.clusters, column.weights)
    if exponential:
        return _exponential(average)
    # Wilson's interval is of proportions; Student's, which `mean` gave, is of anything else.
    is_proportion = 0 <= min(column.values()) <= max(column.values()) <= 1
    if interval == "mean" or not is_proportion:
        return average
    low, high = intervals.wilson(average.mean, _proportion_items(column, average))
    return replace(average, low=low, high=high)


def difference(
    before: Column, after: Column, interval: Kind = "mean", exponential: bool = False
) -> Estimate:
    """The change of a mean, paired item by item, with clustered error; UserError for other items.

    Where weights differ (how many answers have a valid format) it is a difference of two ratios,
    and its error that of their linearisations, still paired.

    Intervals: Tango's for proportions of items that are right or wrong, Student's for means and for
    items with a value in between, Newcombe's for two ratios of proportions.
    """
    # A resumed evaluation may have recorded its items in another order.
    before = before.ordered_as(after)
    if before.weights != after.weights or exponential:
        return _difference_of_ratios(before, after, interval, exponential)

    changes = [y - x for x, y in zip(before.values(), after.values(), strict=True)]
    change = mean(changes, after.clusters, after.weights)
    if interval == "proportion" and _is_binary(before) and _is_binary(after):
        return _with_tango(change, changes, after)
    return change


def _difference_of_ratios(
    before: Column, after: Column, interval: Kind, exponential: bool
) -> Estimate:
    """Of the same items in the same order, by the linearisation of each ratio."""
    first = estimate(before, interval, exponential)
    last = estimate(after, interval, exponential)
    # The error of a difference is that of the difference of what each item adds to both.
    influence = _influence(after, exponential) - _influence(before, exponential)
    se, clusters = _clustered_error(influence, after.clusters)

    change = last.mean - first.mean
    limits = intervals.student(change, se, clusters)
    if interval == "proportion":
        parts = [
            (1.0, last.mean, (last.low, last.high)),
            (-1.0, first.mean, (first.low, first.high)),
        ]
        limits = intervals.combined(change, parts)
    return Estimate(change, se, max(first.n, last.n), clusters, *limits)


def plain_mean(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of independent estimates; `n` and `clusters` are their sums."""
    share = 1 / len(estimates)
    center = share * sum(e.mean for e in estimates)
    error = share * math.sqrt(sum(e.se**2 for e in estimates))
    limits = intervals.combined(center, [(share, e.mean, (e.low, e.high)) for e in estimates])

    n = sum(e.n for e in estimates)
    clusters = sum(e.clusters for e in estimates)
    return Estimate(center, error, n, clusters, *limits)


def near_chance(estimate: Estimate, chance: float) -> bool:
    """Whether a score is at most 3 standard errors above guessing: no headroom to forget."""
    return not estimate.mean - chance > 3 * estimate.se  # so that an unknown error is near chance


def _is_binary(column: Column) -> bool:
    """Whether every item is right or wrong, and counts once or not at all."""
    return column.is_right_or_wrong and set(column.weights) <= {0.0, 1.0}


def _proportion_items(column: Column, proportion: Estimate) -> float:
    """`intervals.effective_items` of a proportion, or of a mean of values between 0 and 1."""
    p, items = proportion.mean, float(proportion.n)
    clusters = column.weighed_clusters()
    count = intervals.effective_items(p * (1 - p), _uncorrected(proportion), items, clusters)
    # Values between 0 and 1 vary less than right and wrong; they may say more than n of these.
    return min(count, items) if _is_binary(column) else count


def _with_tango(change: Estimate, changes: Sequence[float], column: Column) -> Estimate:
    """The change of a proportion with Tango's interval; clusters make it one of fewer pairs."""
    n, gained, lost = change.n, changes.count(1.0), changes.count(-1.0)
    variance = (gained + lost) / n - change.mean**2
    clusters = column.weighed_clusters()
    count = intervals.effective_items(variance, _uncorrected(change), float(n), clusters)
    # The same table of flips, of as many pairs as are independent.
    share = min(count, n) / n
    low, high = intervals.tango(share * gained, share * lost, share * n)
    return replace(change, low=low, high=high)


def _uncorrected(e: Estimate) -> float:
    """The squared error without the correction G / (G - 1); 0 for a single cluster."""
    g = e.clusters
    return 0.0 if g < 2 else e.se**2 * (g - 1) / g


def _influence(column: Column, exponential: bool) -> Float[np.ndarray, " items"]:
    """Each item's contribution to the deviation of the mean, or of its exponential."""
    w, x = np.asarray(column.weights), np.asarray(column.values())
    center = float(np.sum(w * x) / np.sum(w))
    slope = _exp(center) if exponential else 1.0  # d exp(m) / dm: the delta method
    return slope * w * (x - center) / np.sum(w)


def _clustered_error(
    influence: Float[np.ndarray, " items"], clusters: Sequence[Hashable]
) -> tuple[float, int]:
    """(standard error, number of clusters) of a sum of influences, independent between clusters."""
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    g = len(index)
    sums = np.bincount([index[cluster] for cluster in clusters], weights=influence, minlength=g)
    error = math.sqrt(g / (g - 1) * float(np.sum(sums**2))) if g > 1 else math.nan
    return error, g


def _exponential(e: Estimate) -> Estimate:
    """exp of a mean: its limits are exp of the limits, its error by the delta method."""
    value, low, high = (_exp(x) for x in (e.mean, e.low, e.high))
    return Estimate(value, value * e.se, e.n, e.clusters, low, high)


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)  # math.exp raises beyond 709
