"""Right or wrong as the sign of a normal score: answers have less in common than their scores."""

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

# A cell that is always right or always wrong has no threshold, and says nothing of correlations.
SMALLEST = 1e-6
NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)
LARGEST = 0.99


def covariance(
    first: Float[np.ndarray, " M"], second: Float[np.ndarray, " M"], correlation: float
) -> Float[np.ndarray, " M"]:
    """Of answers that are right with these probabilities, by the correlation of their scores.

    The bivariate normal's density, integrated over the correlation (Plackett, Biometrika 41, 1954).
    """
    a, b = (threshold(p)[:, None] for p in (first, second))
    r = correlation * (NODES + 1) / 2
    density = np.exp(-(a**2 - 2 * r * a * b + b**2) / (2 * (1 - r**2)))
    density /= 2 * np.pi * np.sqrt(1 - r**2)
    return correlation / 2 * density @ WEIGHTS


def correlation(
    first: Float[np.ndarray, " M"], second: Float[np.ndarray, " M"], total: float
) -> float:
    """The correlation of scores at which the M covariances of answers add up to `total`.

    One for all pairs (the tetrachoric correlation, pooled); at most LARGEST either way.
    """

    def missing(value: float) -> float:
        return float(np.sum(covariance(first, second, value))) - total

    # Covariances rise with the correlation, so that the nearest one is at an end.
    if missing(LARGEST) <= 0:
        return LARGEST
    if missing(-LARGEST) >= 0:
        return -LARGEST
    return float(optimize.brentq(missing, -LARGEST, LARGEST))


def threshold(probability: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """The normal quantile, finite for 0 and 1 as well."""
    return stats.norm.ppf(np.clip(probability, SMALLEST, 1 - SMALLEST))
