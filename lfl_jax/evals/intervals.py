"""95 % intervals of proportions, of means, and of paired changes; 0 of 16 is not "0 % +- 0".

Items of one cluster are not independent. A proportion is then treated as one of fewer items, n /
(design effect), as in survey statistics (Korn and Graubard, Survey Methodology 24, 1998). Where
the variance cannot be estimated, because all items agree, every cluster counts as one item.
"""

import math
from collections.abc import Callable, Sequence

LEVEL = 0.95
Interval = tuple[float, float]
Number = float | int
# The interval of a single cluster, which tells nothing of others.
UNKNOWN: Interval = (math.nan, math.nan)
STEPS = 60  # of bisection: an interval in [-1, 1] shrinks below the resolution of float64


def critical(clusters: int | None = None, level: float = LEVEL) -> float:
    """The two-sided critical value: normal, or Student's with clusters - 1 degrees of freedom."""
    # Imported where it is used: `--help` and a run's first step need no interval.
    from scipy.special import ndtri, stdtrit

    tail = (1 + level) / 2
    return float(ndtri(tail) if clusters is None else stdtrit(clusters - 1, tail))


def student(mean: Number, se: Number, clusters: int, level: float = LEVEL) -> Interval:
    """mean +- t se, with as many degrees of freedom as clusters less one."""
    if clusters < 2 or math.isnan(se):
        return UNKNOWN
    half = critical(clusters, level) * se
    return mean - half, mean + half


def wilson(p: Number, n: Number, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion p of n items (JASA 22, 1927); n may be a fraction."""
    z2 = critical(level=level) ** 2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # Exact at the ends, where rounding would leave 1e-17.
    low = 0.0 if p == 0 else max(center - half, 0.0)
    high = 1.0 if p == 1 else min(center + half, 1.0)
    return low, high


def tango(gained: Number, lost: Number, n: Number, level: float = LEVEL) -> Interval:
    """Tango's score interval of a paired difference of proportions, (gained - lost) / n.

    The differences that a score test with the constrained estimate of the discordant probabilities
    does not reject (Statistics in Medicine 17, 1998, 891-908). Without a single flip it is
    +- z^2 / (n + z^2).
    """
    z, estimate = critical(level=level), (gained - lost) / n

    def score(delta: float) -> float:
        return _tango_score(delta, gained, lost, n)

    # The score falls from above z to below -z: the limits are where it crosses.
    low = _bisect(lambda delta: score(delta) > z, -1.0, estimate)
    high = _bisect(lambda delta: score(delta) >= -z, estimate, 1.0)
    return low, high


def _tango_score(delta: float, gained: Number, lost: Number, n: Number) -> float:
    """(gained - lost - n delta) in standard errors, were the true difference `delta`."""
    # The probability of losing an item that is likeliest given `delta`: the larger root of
    # a p^2 + b p + c = 0.
    a = 2 * n
    b = -gained - lost + (2 * n - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    p_lost = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * p_lost + delta * (1 - delta))
    distance = gained - lost - n * delta
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _bisect(is_left: Callable[[float], bool], low: float, high: float) -> float:
    """The point up to which a condition holds."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_left(middle) else (low, middle)
    return (low + high) / 2


def combined(mean: Number, parts: Sequence[tuple[float, float, Interval]]) -> Interval:
    """The interval of a weighted sum of independent estimates, (weight, estimate, interval) each.

    Distances to the limits are added in quadrature: the method of variance estimates recovery (Zou
    and Donner, Statistics in Medicine 27, 2008). For two proportions it is Newcombe's hybrid score
    interval of 1998.
    """
    below = above = 0.0
    for weight, estimate, (low, high) in parts:
        down, up = weight * (estimate - low), weight * (high - estimate)
        # A part that is subtracted lowers the sum where it is itself high.
        below += down**2 if weight > 0 else up**2
        above += up**2 if weight > 0 else down**2
    return mean - math.sqrt(below), mean + math.sqrt(above)


def effective_items(variance: float, observed: float, items: float, clusters: int) -> float:
    """How many independent items are as informative as these.

    variance: of one item's value, were items independent. observed: the clustered variance of the
    mean, without the correction for the number of clusters.
    """
    if clusters < 2:
        return 1.0
    count = variance / observed if variance > 0 and observed > 0 else float(clusters)
    # With few clusters the error itself is uncertain: as much less as Student's t is wider.
    few = critical(max(round(items), 2)) / critical(clusters)
    return max(count * few**2, 1.0)
