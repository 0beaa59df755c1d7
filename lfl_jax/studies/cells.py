"""A cell's mean over seeds and items with its interval, also where nearly all items agree.

0 of 16 is not "0.0 +- 0.0": of items that are right or wrong it is Wilson's interval, of right or
wrong against the base Tango's, both of as many items as would give the error over seeds and items.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lfl_jax.evals import intervals
from lfl_jax.statistics.effects import Effect, Part, over_seeds_and_items
from lfl_jax.statistics.frontier import Axis

# Right or wrong, and what can become of either.
ANSWERS, CHANGES = (0.0, 1.0), (-1.0, 0.0, 1.0)


class CellMean(NamedTuple):
    """low, high: 95 %; NaN for a single seed."""

    mean: float
    low: float
    high: float


def cell_mean(axis: Axis, cell: int) -> CellMean:
    """By what the values are: right or wrong, changes of these, or anything else."""
    part = axis.part(cell)
    effect = over_seeds_and_items(part)
    limits = effect.interval()
    if effect.df > 0 and consists_of(part.values, ANSWERS):
        p = effect.mean
        limits = intervals.wilson(p, _effective_items(part, effect, p * (1 - p)))
    elif effect.df > 0 and consists_of(part.values, CHANGES):
        gained, lost = (float(np.mean(part.values == change)) for change in (1.0, -1.0))
        items = _effective_items(part, effect, gained + lost - effect.mean**2)
        limits = intervals.tango(gained * items, lost * items, items)
    return CellMean(effect.mean, *limits)


def consists_of(values: Float[np.ndarray, "..."], numbers: Sequence[float]) -> bool:
    """Whether there is no other value."""
    return bool(np.all(np.isin(values, numbers)))


def _effective_items(part: Part, effect: Effect, variance: float) -> float:
    """How many independent items have the error of this mean; clusters where there is no error.

    variance: of one value. With few seeds the error itself is uncertain, and there are as many
    fewer as Student's t is wider than the normal.
    """
    clusters = int(part.labels().max()) + 1
    if not (variance > 0 and effect.se > 0):
        return float(clusters)
    wider = intervals.critical() / float(stats.t.ppf((1 + intervals.LEVEL) / 2, effect.df))
    # No more than there are answers: runs of one seed and another may disagree by more than chance.
    return min(max(variance / effect.se**2 * wider**2, 1.0), float(part.values.size))
