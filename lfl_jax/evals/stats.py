"""Means of per-example values with clustered standard errors, and paired before-after differences."""

import math
from collections.abc import Hashable, Sequence
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
    groups = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    sums = np.bincount([groups[c] for c in clusters], weights=w * (x - center), minlength=len(groups))
    g = len(groups)
    se = math.sqrt(g / (g - 1) * float(np.sum(sums**2))) / float(np.sum(w)) if g > 1 else math.nan
    return Estimate(center, se, x.size, g)


def over(records: Sequence[dict], metric: str, weight: str | None = None) -> Estimate:
    """Mean of one field of per-example records; with `weight`, sum(metric) / sum(weight)."""
    return mean(*_columns(records, metric, weight))


def difference(before: Sequence[dict], after: Sequence[dict], metric: str, weight: str | None = None) -> Estimate:
    """Mean of after - before, item by item, with the clustered error of the paired difference.

    Raises UserError when the two do not hold the same items.
    """
    first = {record["id"]: record for record in before}
    if len(first) != len(after) or any(record["id"] not in first for record in after):
        raise UserError(
            f"before ({len(before)} records) and after ({len(after)}) are not of the same items: evaluate again"
        )
    x1, clusters, weights = _columns(after, metric, weight)
    x0, _, _ = _columns([first[record["id"]] for record in after], metric, weight)
    return mean([b - a for a, b in zip(x0, x1, strict=True)], clusters, weights)


def near_chance(estimate: Estimate, chance: float) -> bool:
    """Whether a score is within 3 standard errors of guessing, or below: it then has no headroom to forget."""
    return not estimate.mean - chance > 3 * estimate.se


def _columns(records: Sequence[dict], metric: str, weight: str | None) -> tuple[list, list, list | None]:
    clusters = [record["cluster"] for record in records]
    if weight is None:
        return [float(record[metric]) for record in records], clusters, None
    weights = [float(record[weight]) for record in records]
    values = [record[metric] / w if w else 0.0 for record, w in zip(records, weights, strict=True)]
    return values, clusters, weights
