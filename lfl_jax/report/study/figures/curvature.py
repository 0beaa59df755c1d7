"""Each method's best learning rate over the curvature that it starts at."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from lfl_jax.report.study.figures.style import INK, Figure, draw_legend, looks, use_plain_ticks
from lfl_jax.report.study.tables import Table
from lfl_jax.statistics.effects import in_words
from lfl_jax.studies.claims.curvature import FEWEST_ARMS, Arms, arms
from lfl_jax.studies.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def curvature(findings: Findings) -> Figure | None:
    """None for fewer methods than a slope needs."""
    measured = arms(findings)
    if len(measured.names) < FEWEST_ARMS:
        return None
    return Figure(
        "curvature",
        "The best learning rate over the curvature at the start",
        "The top Hessian eigenvalue of the loss at step 0, by what trains, a geometric mean over"
        " seeds. Bars: the 95 % interval of the best learning rate. Line: least squares.",
        _data(measured),
        functools.partial(_paint, measured, tuple(findings.grids)),
    )


def _data(measured: Arms) -> Table:
    rows = []
    for name, x, rate in zip(measured.names, measured.x, measured.rates, strict=True):
        low, high = rate.interval()
        rows.append((name, float(10**x), 10**rate.mean, 10**low, 10**high))
    return Table(
        "curvature",
        "Each method's best learning rate and the top Hessian eigenvalue at step 0.",
        ("method", "eigenvalue", "learning rate", "95 % low", "95 % high"),
        tuple(rows),
    )


def _paint(measured: Arms, methods: tuple[str, ...], canvas: "Canvas") -> None:
    axes = canvas.subplots()
    # As in all other figures of the study, which have methods without a best rate, too.
    drawn = looks(methods)
    for name, x, rate in zip(measured.names, measured.x, measured.rates, strict=True):
        colour, marker = drawn[name]
        low, high = rate.interval()
        axes.plot([10**x] * 2, (10**low, 10**high), color=colour, lw=2)
        axes.plot(10**x, 10**rate.mean, color=colour, marker=marker, ms=6, ls="none", label=name)

    _draw_slope(axes, measured)
    axes.set(xlabel="top Hessian eigenvalue at step 0", ylabel="best learning rate")
    axes.set(xscale="log", yscale="log")
    use_plain_ticks(axes)
    draw_legend(canvas, axes)


def _draw_slope(axes: "Axes", measured: Arms) -> None:
    slope = measured.slope()
    ends = np.array([measured.x.min(), measured.x.max()])
    middle = np.mean([rate.mean for rate in measured.rates])
    fitted = middle + slope.mean * (ends - measured.x.mean())
    label = f"slope {in_words(slope.mean, slope.interval(), '.2f')}"
    axes.plot(10**ends, 10**fitted, color=INK, lw=1.2, zorder=1, label=label)
