"""Singular values of W, W + dW and dW of one layer, and the sums of their squares (LFL, S7)."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from lfl_jax.report.analysis import tables
from lfl_jax.report.analysis.figures.panels import NULL
from lfl_jax.report.analysis.measured import Analysis, Weight
from lfl_jax.report.study.figures.style import COLOURS, INK, Figure, draw_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Of its page: an attention weight, as in the paper, and one of the MLP.
MOST = 2
SHARE, LEAST = 0.9, 1e-7


def singular_values(analysis: Analysis) -> Figure | None:
    """None where W was not decomposed."""
    chosen = chosen_weights(analysis)
    if not chosen:
        return None
    names = " and ".join(weight.name for weight in chosen)
    return Figure(
        "singular_values",
        "W, W + dW and dW",
        f"Above: singular values of {names}. Below: the share of their squares in the first ones;"
        " the line at 90 % is crossed at k90. Dashed: a random change of the same shape, rank and"
        " norm.",
        tables.singular_values(chosen),
        functools.partial(_paint, chosen),
        (4.4, 4.0),
    )


def chosen_weights(analysis: Analysis) -> tuple[Weight, ...]:
    """One attention weight and one of the MLP, four fifths up the stack as in the paper."""
    known = [weight for weight in analysis.last if weight.tuned_s is not None]
    chosen: dict[str, Weight] = {}
    # W + dW was decomposed at one height of the stack only.
    for weight in known:
        chosen.setdefault(weight.path.split("/")[1], weight)
    return tuple(chosen.values())[:MOST]


def _paint(chosen: tuple[Weight, ...], canvas: "Canvas") -> None:
    grid = canvas.subplots(2, len(chosen), squeeze=False, sharex="col")
    for (above, below), weight in zip(grid.T, chosen, strict=True):
        above.set_title(weight.name, fontsize=8, loc="left")
        for label, spectrum, style in _spectra(weight):
            index = np.arange(1, len(spectrum) + 1)
            # Beyond that is rounding, which a logarithmic axis would be full of.
            positive = spectrum > LEAST * spectrum[0]
            above.plot(index[positive], spectrum[positive], label=label, **style)
            squares = np.square(spectrum)
            below.plot(index, np.cumsum(squares) / squares.sum(), **style)
        above.set(yscale="log")
        _draw_share(below)
        for axes in (above, below):
            axes.tick_params(labelsize=7)
    grid[0, 0].set_ylabel("singular value")
    grid[1, 0].set_ylabel("share of squares")
    draw_legend(canvas, grid[0, 0])


def _spectra(weight: Weight) -> list[tuple[str, np.ndarray, dict]]:
    named = [
        ("W", weight.base_s, {"color": COLOURS[0], "lw": 1.4}),
        ("W + dW", weight.tuned_s, {"color": COLOURS[4], "lw": 1.4, "ls": "-."}),
        ("dW", weight.s, {"color": COLOURS[1], "lw": 1.4}),
        ("random dW", weight.random_s, {"color": INK, **NULL}),
    ]
    return [(label, spectrum, style) for label, spectrum, style in named if spectrum is not None]


def _draw_share(axes: "Axes") -> None:
    axes.axhline(SHARE, color=INK, lw=0.8)
    axes.set(xlabel="index", ylim=(0, 1.02))
