"""The best learning rate of an arm with its interval, and the ratio of two arms' best ones.

A parabola in log10 of the rate is fitted to each seed's dev scores around the best rate; its vertex
is that seed's optimum. A sweep whose best rate is at its edge has not found an optimum: it is
refused, as is a parabola that opens the wrong way.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Effect, over_seeds

# Grid points on each side of the best one that the parabola is fitted to.
NEIGHBOURS = 2


@dataclass(frozen=True)
class Optimum:
    """log10: of the best rate, over seeds. best: the grid's rate with the best mean score."""

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


def optimum(
    arm: str,
    rates: Float[np.ndarray, " K"],
    scores: Float[np.ndarray, "S K"],
    *,
    higher_is_better: bool = True,
) -> Optimum:
    """The best rate of a sweep: rates ascending, dev scores (not those of the test items) by seed.

    UserError for a best rate at the edge, fewer than 3 rates, or no maximum in between.
    """
    vertices, best = _vertices(arm, rates, scores, higher_is_better)
    return Optimum(over_seeds(vertices), best)


def ratio(
    first: tuple[str, Float[np.ndarray, " K"], Float[np.ndarray, "S K"]],
    second: tuple[str, Float[np.ndarray, " N"], Float[np.ndarray, "S N"]],
    *,
    higher_is_better: bool = True,
) -> Effect:
    """log10 of (first's best rate / second's), paired over seeds: (arm, rates, scores) of each."""
    vertices = [_vertices(*sweep, higher_is_better)[0] for sweep in (first, second)]
    return over_seeds(vertices[0] - vertices[1])


def _vertices(
    arm: str,
    rates: Float[np.ndarray, " K"],
    scores: Float[np.ndarray, "S K"],
    higher_is_better: bool,
) -> tuple[Float[np.ndarray, " S"], float]:
    """Each seed's vertex (log10), and the grid's best rate."""
    rates = np.asarray(rates, np.float64)
    if len(rates) < 3:
        raise UserError(f"{arm}: {len(rates)} learning rates; an optimum needs at least 3")
    if not np.all(np.diff(rates) > 0):
        raise UserError(f"{arm}: learning rates {rates.tolist()}; expected them ascending")

    # A minimum is looked for, whichever way the score goes.
    losses = -np.asarray(scores) if higher_is_better else np.asarray(scores)
    best = int(np.argmin(losses.mean(axis=0)))
    if best in (0, len(rates) - 1):
        side = "lower" if best == 0 else "higher"
        raise UserError(
            f"{arm}: the best learning rate, {rates[best]:g}, is the edge of its sweep"
            f" ({rates[0]:g} to {rates[-1]:g}); add {side} ones"
        )

    # Far from the optimum a score is no parabola: only its neighbourhood is fitted.
    near = slice(max(best - NEIGHBOURS, 0), best + NEIGHBOURS + 1)
    x = np.log10(rates[near])
    center = x.mean()
    # One curvature for all seeds: a seed's own is the quotient's noisiest part.
    curvature = np.polyfit(x - center, losses[:, near].mean(axis=0), 2)[0]
    if curvature <= 0:
        raise UserError(f"{arm}: scores do not rise and fall over {rates[near].tolist()}")

    residuals = losses[:, near] - curvature * (x - center) ** 2
    slopes = np.polyfit(x - center, residuals.T, 1)[0]
    vertices = center - slopes / (2 * curvature)
    span = (math.log10(rates[0]), math.log10(rates[-1]))
    if not span[0] <= float(vertices.mean()) <= span[1]:
        raise UserError(f"{arm}: the parabola's optimum lies outside of the sweep; add rates")
    return vertices, float(rates[best])
