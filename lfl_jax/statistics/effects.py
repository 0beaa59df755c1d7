"""An effect over seeds and items, and its error when both are samples of more.

A study repeats its runs over seeds and scores each run on the same items. Another study would draw
other seeds and other items, so the error of a mean difference has both parts. It is the two-way
clustered variance of Cameron, Gelbach and Miller (Journal of Business & Economic Statistics 29,
2011): what seeds explain, plus what items explain, less what both count, their interaction.
"""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

LEVEL = 0.95
# In place of an interval that does not exist: one seed says nothing of others.
NO_INTERVAL = "one seed: no interval"


@dataclass(frozen=True)
class Effect:
    """A mean difference with its standard error and Student's degrees of freedom.

    seeds, clusters: how many of each it rests on (0 clusters: items were not given).
    """

    mean: float
    se: float
    df: float
    seeds: int
    clusters: int = 0

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """mean +- t se; NaN for a single seed, which tells nothing of others."""
        if not self.df > 0:
            return math.nan, math.nan
        half = float(stats.t.ppf((1 + level) / 2, self.df)) * self.se
        return self.mean - half, self.mean + half

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided, of the effect being `null`."""
        if not self.df > 0:
            return math.nan
        if self.se == 0:
            return float(self.mean == null)
        return float(2 * stats.t.sf(abs(self.mean - null) / self.se, self.df))


def in_words(mean: float, limits: tuple[float, float], form: str) -> str:
    """ "0.11 [0.09, 0.13]", its numbers in this format; of one seed, that there is no interval."""
    low, high = limits
    if math.isnan(low):
        return f"{mean:{form}} ({NO_INTERVAL})"
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


@dataclass(frozen=True)
class Part:
    """One additive part of an effect: values of the same items under every seed.

    values: (S, I), whose mean is the part's share of the effect. clusters: of each item, which
    items are not independent; None = each item is its own.
    """

    values: Float[np.ndarray, "S I"]
    clusters: Sequence[Hashable] | None = None

    def labels(self) -> Int[np.ndarray, " I"]:
        """The index of each item's cluster."""
        if self.clusters is None:
            return np.arange(self.values.shape[1])
        index = {name: g for g, name in enumerate(dict.fromkeys(self.clusters))}
        return np.array([index[name] for name in self.clusters])


def over_seeds(values: Float[np.ndarray, " S"]) -> Effect:
    """The mean of one value per seed, by Student's t with S - 1 degrees of freedom."""
    values = np.asarray(values, np.float64)
    seeds = len(values)
    se = float(np.std(values, ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan
    return Effect(float(np.mean(values)), se, float(seeds - 1), seeds)


def independent_difference(first: Effect, second: Effect) -> Effect:
    """first less second of two samples that share nothing, such as two studies (Welch, 1947).

    Degrees of freedom after Satterthwaite; no interval where either has none.
    """
    variance = first.se**2 + second.se**2
    squares = sum(effect.se**4 / effect.df for effect in (first, second) if effect.df > 0)
    # NaN of a single seed is above nothing.
    estimated = variance > 0 and squares > 0
    df = variance**2 / squares if estimated else min(first.df, second.df)
    seeds = min(first.seeds, second.seeds)
    return Effect(first.mean - second.mean, math.sqrt(variance), df, seeds)


def over_seeds_and_items(*parts: Part) -> Effect:
    """The sum of the parts' means. Parts share their seeds; their items are independent.

    A part without variation over items (a run's loss, not scored by item) has one column. Degrees
    of freedom after Satterthwaite, of the seeds' and the items' components.
    """
    seeds = parts[0].values.shape[0]
    per_seed = sum(part.values.mean(axis=1) for part in parts)
    by_seeds = over_seeds(per_seed)
    if seeds < 2:
        return by_seeds

    # Satterthwaite: the squared variance, over the sum of each component's by its degrees.
    variance, clusters = by_seeds.se**2, 0
    squares = by_seeds.se**4 / (seeds - 1)
    for part in parts:
        added, size = _items_variance(part)
        variance += added
        clusters += size
        if added > 0:
            squares += added**2 / (size - 1)

    df = variance**2 / squares if squares > 0 else float(seeds - 1)
    return Effect(by_seeds.mean, math.sqrt(variance), df, seeds, clusters)


def with_least_error(effect: Effect, part: Part) -> Effect:
    """Of answers that are right or wrong: never an error of less than 1 / (clusters + 2).

    That is the error of a paired difference without a single flip, half an answer being added to
    each of the four kinds of pairs (Agresti and Min, Statistics in Medicine 24, 2005).
    """
    clusters = int(part.labels().max()) + 1
    return dataclasses.replace(effect, se=max(effect.se, 1 / (clusters + 2)))


def _items_variance(part: Part) -> tuple[float, int]:
    """Of the mean, because these items were drawn and not others; and how many clusters there are.

    0 where seeds explain it all, and for a part without items.
    """
    values, labels = part.values, part.labels()
    seeds, items = values.shape
    clusters = int(labels.max()) + 1
    if clusters < 2:
        return 0.0, 0

    # Each cluster's sum of deviations: of every seed alone, and of the mean over seeds.
    deviation = values - values.mean(axis=1, keepdims=True)
    alone = np.stack([np.bincount(labels, row, clusters) for row in deviation / items])
    together = alone.mean(axis=0)

    correction = clusters / (clusters - 1)
    main_and_interaction = correction * float(np.sum(together**2))
    # The seeds' component counts the interaction already.
    interaction = correction * float(np.sum((alone - together) ** 2)) / (seeds * (seeds - 1))
    return max(main_and_interaction - interaction, 0.0), clusters
