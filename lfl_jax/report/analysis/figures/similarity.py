"""Which directions two changes share, or a change and W, as heat-maps (LoRA paper, figure 3)."""

import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lfl_jax.report.analysis import tables
from lfl_jax.report.analysis.measured import Analysis, Pair
from lfl_jax.report.study.figures.style import INK, Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# A panel for every module is too small in a column: so many are drawn there.
PER_ROW = {True: 7, False: 4}


def similarity(analysis: Analysis) -> Figure | None:
    """With another run's change where there is one, else with W; None where neither is known."""
    pairs = middle_pairs(analysis)
    if not pairs:
        return None
    what = f"dW of {analysis.compared}" if analysis.compared else "W"
    return Figure(
        "similarity",
        f"Directions that dW shares with {what}",
        "||U_i^T V_j||_F^2 / min(i, j): how much of the first i directions of dW (down) lies in"
        f" the first j of {what} (across), in the space of inputs, layer {pairs[0].layer}. Below"
        " each: the same of random directions, the null. The data has every layer, and the space of"
        " outputs.",
        tables.similarities(analysis),
        functools.partial(_paint, pairs),
        (2.3, 3.2),
    )


def middle_pairs(analysis: Analysis) -> list[Pair]:
    """Of every module, at the layer in the middle of the stack."""
    pairs = analysis.pairs or tuple(weight.with_base() for weight in analysis.last)
    known = [pair for pair in pairs if pair is not None]
    if not known:
        return []
    layers = sorted({pair.layer for pair in known})
    middle = layers[len(layers) // 2]
    return [pair for pair in known if pair.layer == middle]


def _paint(pairs: list[Pair], canvas: "Canvas") -> None:
    drawn = pairs[: PER_ROW[canvas.get_figwidth() > 5]]
    grid = canvas.subplots(2, len(drawn), squeeze=False)
    for (above, below), pair in zip(grid.T, drawn, strict=True):
        image = _draw(above, pair.inputs)
        _draw(below, random_similarities(pair.shape[0], *pair.inputs.shape))
        above.set_title(pair.module, fontsize=8, loc="left")
    grid[0, 0].set_ylabel("measured", fontsize=8)
    grid[1, 0].set_ylabel("random", fontsize=8)
    bar = canvas.colorbar(image, ax=list(grid.ravel()), fraction=0.03)
    bar.ax.tick_params(labelsize=7, color=INK)
    bar.outline.set_edgecolor(INK)


def random_similarities(size: int, rows: int, columns: int) -> Float[np.ndarray, "D E"]:
    """The mean of random subspaces: max(i, j) / N."""
    # E||U^T V||^2 = i j / N, over min(i, j), as in subspaces.random_similarity.
    i, j = np.arange(1, rows + 1), np.arange(1, columns + 1)
    return np.minimum(np.maximum.outer(i, j) / size, 1.0)


def _draw(axes: "Axes", values: Float[np.ndarray, "D E"]) -> "object":
    extent = (0.5, values.shape[1] + 0.5, values.shape[0] + 0.5, 0.5)
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", extent=extent)
    axes.tick_params(labelsize=6)
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True, nbins=4)
    return image
