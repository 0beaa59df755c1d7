"""A line through the effects of several studies, each with an error of its own.

Weighted least squares with the inverse variances as weights, and Knapp and Hartung's error of the
slope (Statistics in Medicine 22, 2003): residuals larger than the studies' errors widen it, smaller
ones do not narrow it (Roever, Knapp and Friede, BMC Medical Research Methodology 15, 2015).
"""

import math

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Effect

LEAST_STUDIES = 3


def slope(
    x: Float[np.ndarray, " K"], effects: Float[np.ndarray, " K"], errors: Float[np.ndarray, " K"]
) -> Effect:
    """How much the effect changes for each unit of x, with K - 2 degrees of freedom.

    errors: standard errors of the effects. UserError for fewer than three studies, equal values of
    x, or an effect without an error.
    """
    count = len(x)
    if count < LEAST_STUDIES:
        raise UserError(f"{count} studies; a trend needs at least {LEAST_STUDIES}")
    if np.ptp(x) == 0:
        raise UserError(f"all studies have the same value, {x[0]:g}: there is no trend to see")
    if not np.all(errors > 0):
        raise UserError("a study's effect has no standard error: it needs at least 2 seeds")

    weights = 1 / errors**2
    centred = x - np.average(x, weights=weights)
    spread = float(np.sum(weights * centred**2))
    steepness = float(np.sum(weights * centred * effects)) / spread
    fitted = np.average(effects, weights=weights) + steepness * centred

    # 1 where the studies scatter about the line as much as their own errors say.
    scatter = float(np.sum(weights * (effects - fitted) ** 2)) / (count - 2)
    return Effect(steepness, math.sqrt(max(scatter, 1.0) / spread), float(count - 2), count)
