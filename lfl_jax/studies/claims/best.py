"""Each method at its best learning rate, chosen on other seeds than it is scored on.

The best of several noisy scores is too good by chance. So the rate of a seed is the best one of the
other seeds.
"""

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Effect, Part, over_seeds_and_items
from lfl_jax.statistics.frontier import Axis
from lfl_jax.studies.arms import Grid


def shared_length(grids: list[Grid]) -> int:
    """Steps of the longest runs that all of them have; UserError without any."""
    lengths = set(grids[0].lengths).intersection(*(grid.lengths for grid in grids))
    if not lengths:
        raise UserError("the methods have no length in common")
    return max(lengths)


def chosen_cells(grid: Grid, length: int) -> Int[np.ndarray, " S"]:
    """Of each seed, the cell of this length that learned most with the other seeds."""
    cells = grid.of_length(length)
    means = grid.arm.x.by_run()[:, cells]
    seeds = len(means)
    # A single seed has no others; its interval does not exist either.
    scores = means.sum(axis=0) - means if seeds > 1 else means
    return cells[np.argmax(scores, axis=1)]


def at_best(axis: Axis, cells: Int[np.ndarray, " S"]) -> Float[np.ndarray, "S I"]:
    """The items' values of each seed at its cell."""
    return axis.values[np.arange(len(cells)), cells]


def learning_difference(first: Grid, second: Grid) -> Effect:
    """What the first learned more than the second, each at its best rate and as long."""
    length = shared_length([first, second])
    values = [at_best(grid.arm.x, chosen_cells(grid, length)) for grid in (first, second)]
    return over_seeds_and_items(Part(values[0] - values[1], first.arm.x.clusters))


def is_at_edge(grid: Grid, length: int) -> bool:
    """Whether the best rate has no neighbour on one side, so that a better one may lie beyond."""
    cells = grid.of_length(length)
    best = int(np.argmax(grid.arm.x.means()[cells]))
    return best in (0, len(cells) - 1)


def slope(
    x: Float[np.ndarray, " K"], values: Float[np.ndarray, "S K I"]
) -> Float[np.ndarray, "S I"]:
    """Of every item's values over x: the least-squares slope is a weighed sum over K."""
    centred = x - x.mean()
    return np.einsum("k,ski->si", centred / np.sum(centred**2), values)
