"""The error over seeds of a statistic that is no mean of one value per seed.

Every seed is left out in turn. The pseudo-values of the statistic, S t(all) - (S - 1) t(without s),
are then treated as values of one seed each (Tukey, 1958). Of pairs of seeds, which share seeds and
are not independent, the mean is a U-statistic, whose error this estimates (Arvesen, Annals of
Mathematical Statistics 40, 1969): with as many degrees of freedom as seeds less one, and not as
pairs.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.statistics.effects import Effect, over_seeds

# A statistic of these seeds alone, by their indices.
OfSeeds = Callable[[Int[np.ndarray, " N"]], float]


def over(statistic: OfSeeds, seeds: int, fewest: int = 1) -> Effect:
    """The statistic of all seeds with its error, by Student's t with S - 1 degrees of freedom.

    fewest: seeds that it needs. With no more than these nothing can be left out, and the effect has
    no interval.
    """
    everyone = np.arange(seeds)
    whole = statistic(everyone)
    if seeds <= fewest:
        return Effect(whole, math.nan, 0.0, seeds)
    without = np.array([statistic(np.delete(everyone, seed)) for seed in everyone])
    # The statistic itself stays the estimate: of a mean of pairs it has no bias to take out.
    return dataclasses.replace(over_seeds(seeds * whole - (seeds - 1) * without), mean=whole)


def over_pairs(values: Float[np.ndarray, "S S"]) -> Effect:
    """The mean over all pairs of two different seeds, [s, t] being of seed s with seed t."""

    def mean(seeds: Int[np.ndarray, " N"]) -> float:
        chosen = np.asarray(values, np.float64)[np.ix_(seeds, seeds)]
        return float(chosen[~np.eye(len(seeds), dtype=bool)].mean())

    return over(mean, len(values), fewest=2)
