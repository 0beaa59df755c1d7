"""Which of several choices a score depends on most: shares of variance over a full grid.

Every main effect's omega^2 of an analysis of variance, with seeds as blocks: the share of the
score's variance that the factor explains beyond noise (Hays, Statistics, 1963). Noise is how cells
differ between seeds, without what a seed does to all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError


@dataclass(frozen=True)
class Share:
    """omega2: of a factor, or of all interactions together; 0 where noise explains it."""

    factor: str
    omega2: float


class _Term(NamedTuple):
    """A row of the analysis of variance."""

    name: str
    squares: float
    degrees: int


def of_variance(names: Sequence[str], scores: Float[np.ndarray, "..."]) -> list[Share]:
    """Of a full factorial grid: an axis per factor, seeds on the last; the greatest first.

    UserError for a single seed: without others nothing tells interactions from noise.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != len(names) + 1:
        raise UserError(f"{scores.ndim} axes for {len(names)} factors and seeds")
    seeds = scores.shape[-1]
    if seeds < 2:
        raise UserError("1 seed: shares of variance need at least 2")

    sums = _sums_of_squares(names, scores)
    total = float(np.sum((scores - scores.mean()) ** 2))
    # Cells share their seeds: what a seed does to all of them is no noise of their differences.
    blocks = float(np.var(scores.reshape(-1, seeds).mean(axis=0))) * scores.size
    within = max(total - blocks - sum(term.squares for term in sums), 0.0)
    noise = within / ((scores.size // seeds - 1) * (seeds - 1))

    # Each sum of squares holds noise in proportion to its degrees of freedom.
    scale = total + noise
    shares = []
    for term in sums:
        beyond_noise = max(term.squares - term.degrees * noise, 0.0)
        shares.append(Share(term.name, beyond_noise / scale if scale > 0 else 0.0))
    return sorted(shares, key=lambda share: -share.omega2)


def _sums_of_squares(names: Sequence[str], scores: Float[np.ndarray, "..."]) -> list[_Term]:
    """Of each factor, and of all that is between cells beyond them: interactions."""
    cells = scores.mean(axis=-1)
    terms = []
    for axis, name in enumerate(names):
        others = tuple(other for other in range(cells.ndim) if other != axis)
        means = cells.mean(axis=others)
        squares = float(np.var(means)) * scores.size
        terms.append(_Term(name, squares, len(means) - 1))

    # Whatever the cells differ by beyond the factors, one by one, is their interaction.
    between = float(np.var(cells)) * scores.size
    squares = between - sum(term.squares for term in terms)
    degrees = cells.size - 1 - sum(term.degrees for term in terms)
    return [*terms, _Term("interactions", squares, degrees)]
