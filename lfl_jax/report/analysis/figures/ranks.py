"""Ranks of the weight change by layer, a panel for each module (LFL, figure 6)."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from lfl_jax.report.analysis import tables
from lfl_jax.report.analysis.figures.panels import NULL, SIGNS, label, panels, sequence
from lfl_jax.report.analysis.measured import Analysis
from lfl_jax.report.analysis.measures import BY_NAME
from lfl_jax.report.study.figures.style import INK, Figure, draw_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

HEIGHTS = (4.2, 6.0)


def k90(analysis: Analysis) -> Figure | None:
    """The paper's rank."""
    return _by_layer(
        analysis,
        "k90",
        "Rank of the change by layer: k90",
        "k90: the least number of directions with 90 % of the squared singular values of dW, the"
        " rank of LFL's figure 6.",
    )


def effective_rank(analysis: Analysis) -> Figure | None:
    """Roy and Vetterli's rank, which has no threshold."""
    return _by_layer(
        analysis,
        "effective_rank",
        "Rank of the change by layer: effective rank",
        "The effective rank: exp of the entropy of the singular values of dW over their sum.",
    )


def _by_layer(analysis: Analysis, name: str, title: str, about: str) -> Figure | None:
    if not analysis.weights:
        return None
    several = " Colours: checkpoints, in the order of training." if analysis.is_several else ""
    signs = (
        " Dash-dotted: the signs of dW, one step of LionW or Adam." if _has_signs(analysis) else ""
    )
    return Figure(
        name,
        title,
        f"{about} Dashed: a random change of the same shape and rank, the null.{signs}{several}",
        tables.by_layer(analysis, name),
        functools.partial(_paint, analysis, name),
        HEIGHTS,
    )


def _has_signs(analysis: Analysis) -> bool:
    return any(weight.one_step_s is not None for weight in analysis.last)


def _paint(analysis: Analysis, name: str, canvas: "Canvas") -> None:
    drawn = panels(canvas, analysis.modules)
    for axes, module in zip(drawn, analysis.modules, strict=True):
        _draw_module(axes, analysis, module, name)
    label(canvas, drawn, "layer", BY_NAME[name].label)
    draw_legend(canvas, drawn[0])


def _draw_module(axes: "Axes", analysis: Analysis, module: str, name: str) -> None:
    colours = sequence(len(analysis.labels))
    for checkpoint, colour in zip(analysis.labels, colours, strict=True):
        # Points as well: a single layer has no line.
        style = {"color": colour, "marker": "o", "ms": 3, "lw": 1.2, "label": checkpoint}
        axes.plot(*analysis.series(checkpoint, module, name), **style)
    last = analysis.labels[-1]
    null = analysis.series(last, module, BY_NAME[name].null_name)
    axes.plot(*null, color=INK, label="random", **NULL)
    layers, signs = analysis.series(last, module, f"{name}_one_step")
    if not np.isnan(signs).all():
        axes.plot(layers, signs, color=INK, label="signs of dW", **SIGNS)
    # From 0 on: a rank is a share of what there could be.
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
