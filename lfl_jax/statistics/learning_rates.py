"""The best learning rate of an arm with its interval, and the ratio of two arms' best ones.

A parabola in log10 of the rate is fitted to the mean dev scores around the best rate; its vertex is
the optimum. The choice of the best rate is repeated in every draw of the bootstrap that gives the
interval. A sweep whose best rate is at its edge has not found an optimum: it is refused, as is a
parabola that opens the wrong way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.statistics import resampling
from lfl_jax.statistics.effects import Effect
from lfl_jax.statistics.frontier import Axis
from lfl_jax.statistics.resampling import Means

# Grid points on each side of the best one that the parabola is fitted to.
NEIGHBOURS = 2

# An arm's name, its rates in ascending order, and its dev scores: by seed, rate and item.
Sweep = tuple[str, Float[np.ndarray, " K"], Axis]


@dataclass(frozen=True)
class Optimum:
    """log10: of the best rate. best: the grid's rate with the best mean score."""

    log10: Effect
    best: float

    @property
    def rate(self) -> float:
        """The parabola's optimum."""
        return float(10**self.log10.mean)

    def interval(self) -> tuple[float, float]:
        """95 %, of the rate."""
        low, high = self.log10.interval()
        return 10**low, 10**high


def optimum(sweep: Sweep, *, higher_is_better: bool = True) -> Optimum:
    """The best rate of a sweep, by dev scores and not by those of the test items.

    UserError for a best rate at the edge, fewer than 3 rates, or no maximum in between.
    """
    best = _require_optimum(sweep, higher_is_better)
    _, rates, scores = sweep
    sign = -1.0 if higher_is_better else 1.0

    def vertices(means: Means) -> Float[np.ndarray, " B"]:
        return _vertices(np.log10(rates), sign * means[0][0])

    return Optimum(resampling.effect(vertices, [[scores]]), float(rates[best]))


def ratio(first: Sweep, second: Sweep, *, higher_is_better: bool = True) -> Effect:
    """log10 of (first's best rate / second's), paired over seeds and items; raises as `optimum`."""
    for sweep in (first, second):
        _require_optimum(sweep, higher_is_better)
    sign = -1.0 if higher_is_better else 1.0

    def difference(means: Means) -> Float[np.ndarray, " B"]:
        sweeps = zip((first[1], second[1]), means[0], strict=True)
        of_first, of_second = (_vertices(np.log10(rates), sign * of) for rates, of in sweeps)
        return of_first - of_second

    return resampling.effect(difference, [[first[2], second[2]]])


def slope(x: Float[np.ndarray, " M"], rates: Sequence[Effect]) -> Effect:
    """Of log10 of the arms' best rates over x, by least squares.

    Its error is the one that the best rates' own errors leave it, which count as independent.
    """
    weights, errors = slope_weights(x), np.array([rate.se for rate in rates])
    mean = float(weights @ [rate.mean for rate in rates])
    se = math.sqrt(float(np.square(weights) @ np.square(errors)))
    # As few degrees of freedom as the least known of them has.
    fewest = min(rates, key=lambda rate: rate.df)
    return Effect(mean, se, fewest.df, fewest.seeds)


def slope_weights(x: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """Of the values at x in their least-squares slope, which is a weighed sum of them."""
    centred = x - x.mean()
    return centred / np.sum(centred**2)


def _require_optimum(sweep: Sweep, higher_is_better: bool) -> int:
    """The index of the best rate, which has worse ones on both sides."""
    arm, rates, scores = sweep
    if len(rates) < 3:
        raise UserError(f"{arm}: {len(rates)} learning rates; an optimum needs at least 3")
    if not np.all(np.diff(rates) > 0):
        raise UserError(f"{arm}: learning rates {rates.tolist()}; expected them ascending")

    # A minimum is looked for, whichever way the score goes.
    losses = -scores.means() if higher_is_better else scores.means()
    best = int(np.argmin(losses))
    if best in (0, len(rates) - 1):
        side = "lower" if best == 0 else "higher"
        raise UserError(
            f"{arm}: the best learning rate, {rates[best]:g}, is the edge of its sweep"
            f" ({rates[0]:g} to {rates[-1]:g}); add {side} ones"
        )
    near = _near(best)
    vertex, curvature = _parabola(np.log10(rates[near]), losses[None, near])
    if curvature[0] <= 0:
        raise UserError(f"{arm}: scores do not rise and fall over {rates[near].tolist()}")
    if not np.log10(rates[0]) <= vertex[0] <= np.log10(rates[-1]):
        raise UserError(f"{arm}: the parabola's optimum lies outside of the sweep; add rates")
    return best


def _vertices(
    x: Float[np.ndarray, " K"], losses: Float[np.ndarray, "B K"]
) -> Float[np.ndarray, " B"]:
    """Each draw's optimum, never beyond the sweep; the best rate itself where there is no other."""
    best = np.argmin(losses, axis=1)
    optima = x[best]
    # Draws with one best rate have one neighbourhood, and are fitted together.
    for index in range(1, len(x) - 1):
        rows = best == index
        if rows.any():
            near = _near(index)
            vertex, curvature = _parabola(x[near], losses[rows, near])
            optima[rows] = np.where(curvature > 0, np.clip(vertex, x[0], x[-1]), x[index])
    return optima


def _near(best: int) -> slice:
    # Far from the optimum a score is no parabola: only its neighbourhood is fitted.
    return slice(max(best - NEIGHBOURS, 0), best + NEIGHBOURS + 1)


def _parabola(
    x: Float[np.ndarray, " N"], losses: Float[np.ndarray, "B N"]
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """Where each row's parabola has its vertex, and its curvature; NaN for a straight line."""
    center = x.mean()
    curvature, slope, _ = np.polyfit(x - center, losses.T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return center - slope / (2 * curvature), curvature
