"""A panel for each module, and colours for what comes one after another."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lfl_jax.report.study.figures.style import COLOURS, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

NULL = {"ls": "--", "lw": 1.1}
SIGNS = {"ls": "-.", "lw": 0.9}
FLOOR = {"ls": ":", "lw": 1.3}
# Inches that a panel needs at least, its labels included.
LEAST = 1.6


def panels(canvas: "Canvas", names: Sequence[str], *, share_y: bool = False) -> list["Axes"]:
    """One for each name, which stands above it, as many in a row as are readable."""
    columns = min(len(names), max(2, int(canvas.get_figwidth() / LEAST)))
    rows = math.ceil(len(names) / columns)
    grid = canvas.subplots(rows, columns, squeeze=False, sharex=True, sharey=share_y).ravel()
    for axes, name in zip(grid, names, strict=False):
        axes.set_title(name, fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        # An axis that is shared is labelled at the lowest panel alone, and that may be empty.
        axes.xaxis.set_tick_params(labelbottom=True)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    return list(grid[: len(names)])


def label(canvas: "Canvas", drawn: Sequence["Axes"], x: str, y: str) -> None:
    """Both axes of all panels: x below those that have none beneath them."""
    columns = drawn[0].get_gridspec().ncols
    for axes in drawn[-columns:]:
        axes.set_xlabel(x, fontsize=8)
    # The canvas's own label below is taken: reservations stand there.
    canvas.supylabel(y, fontsize=8, color=INK)


def sequence(count: int) -> list[str]:
    """Colours from the first to the last, all readable on white and on black."""
    if count == 1:
        return [COLOURS[0]]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    # Both ends of the map are left out: one is lost on black, the other on white.
    shades = (0.2 + 0.6 * index / (count - 1) for index in range(count))
    return [to_hex(colormaps["viridis"](shade)) for shade in shades]
