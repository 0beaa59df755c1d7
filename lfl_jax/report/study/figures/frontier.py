"""Forgetting over learning: every run, every cell's mean, and each method's frontier."""

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lfl_jax.report.study import tables
from lfl_jax.report.study.figures.labels import label_points
from lfl_jax.report.study.figures.style import (
    INK,
    MARKERS,
    NOISE,
    Figure,
    Look,
    draw_legend,
    draw_noise_of_forgetting,
    intervals,
    looks,
)
from lfl_jax.statistics.frontier import pareto
from lfl_jax.studies import published
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.published import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

REACH = "compared"
PAPER = " Dotted, grey and hollow: the paper's values, of Llama-2-7B; one seed, without errors."
# The axis' end over the highest point of a line or its band, where cells are far beyond.
TOP = 1.3
# Of all bands of the methods together: many of them lie on one another.
OPACITY = 0.4
# Rates are written at every cell of a small study, and at the ends of sweeps of a large one.
FEW_CELLS = 12


def frontier(findings: Findings) -> Figure:
    """The study's main figure."""
    return Figure(
        "frontier",
        "What was learned, what was forgotten",
        "Small: every run. Large: the mean of a learning rate over seeds, with the rate beside it."
        " A line joins those that no other one of the method beats; its band is the 95 % interval"
        " of what they forget. Hollow: another run's change, altered without training."
        " Arrows at the top: beyond the axis, which follows the lines."
        f" Grey: {NOISE}, around no forgetting. Bar at the bottom: the learning that both methods"
        " of the first contrast reach, over which their gap is averaged."
        + (PAPER if published.comparable(findings.question.measures) else ""),
        tables.runs(findings),
        functools.partial(_paint, findings),
        (4.6, 3.6),
    )


def _paint(findings: Findings, canvas: "Canvas") -> None:
    axes = canvas.subplots()
    opacity = min(0.14, OPACITY / len(findings.grids))
    for method, look in looks(findings.grids).items():
        _draw_method(axes, method, findings.grids[method], look, opacity)
    draw_noise_of_forgetting(axes, findings)
    _draw_published(axes, published.comparable(findings.question.measures))
    primary = findings.answers[0].evidence
    if primary is not None:
        # On the axis itself: the plane is full of bands already.
        at_the_bottom = {"transform": axes.get_xaxis_transform(), "solid_capstyle": "butt"}
        ends = (primary.low, primary.high)
        axes.plot(ends, (0, 0), color=INK, lw=5, alpha=0.6, label=REACH, **at_the_bottom)

    _follow_the_lines(axes, findings)
    measures = findings.question.measures
    axes.set(
        xlabel=f"learned: {findings.learning_label}",
        ylabel=f"forgotten: {findings.label(measures.forgetting)}",
    )
    draw_legend(canvas, axes)
    labels, points = [], []
    few = sum(len(grid.cells) for grid in findings.grids.values()) <= FEW_CELLS
    for grid in findings.grids.values():
        labels += _rates(grid, few)
        points += zip(grid.arm.x.by_run().flat, grid.arm.y.by_run().flat, strict=True)
        points += zip(grid.arm.x.means(), grid.arm.y.means(), strict=True)
    label_points(axes, labels, np.array(points))


def _follow_the_lines(axes: "Axes", findings: Findings) -> None:
    """End the axis where collapsed runs would flatten the lines; arrows stand for what is beyond.

    The lines of arms that are compared: runs that forgot everything and learned little are on none
    of them, and may be ten times as high, as a sham arm may.
    """
    highest = 0.0
    for method in itertools.chain(*findings.pairs):
        arm = findings.grids[method].arm
        forgotten = arm.y.means()
        highest = max(highest, float(forgotten[pareto(arm.x.means(), forgotten)].max()))
    bottom, top = axes.get_ylim()
    if not 0 < TOP * highest < top:
        return
    top = TOP * highest
    # As far below 0, which the band of the noise may leave far behind.
    axes.set_ylim(max(bottom, -top / 2), top)
    for method, look in looks(findings.grids).items():
        arm = findings.grids[method].arm
        beyond = arm.x.means()[arm.y.means() > top]
        # Of a line without points the layout takes the canvas's corner for its place.
        if len(beyond):
            at_the_top = {"transform": axes.get_xaxis_transform(), "clip_on": False, "ls": "none"}
            style = {"marker": "^", "color": look.colour, "ms": 5}
            axes.plot(beyond, np.ones_like(beyond), **style, **at_the_top)


def _draw_published(axes: "Axes", sweeps: Sequence[Sweep]) -> None:
    """Hollow, small and named: others' models, one seed, no errors."""
    for index, sweep in enumerate(sweeps):
        style = {"color": INK, "mfc": "none", "ms": 4, "lw": 0.7, "ls": ":", "zorder": 1}
        marker = MARKERS[index % len(MARKERS)]
        label = f"paper: {sweep.method}, {sweep.setting}"
        axes.plot(sweep.learned, sweep.forgotten, marker=marker, label=label, **style)


def _draw_method(axes: "Axes", method: str, grid: Grid, look: Look, opacity: float) -> None:
    colour, marker = look
    axes.scatter(
        grid.arm.x.by_run(), grid.arm.y.by_run(), s=8, color=colour, marker=marker, alpha=0.4, lw=0
    )
    x, (y, low, high) = grid.arm.x.means(), intervals(grid.arm.y)
    efficient = pareto(x, y)
    band = {"color": colour, "alpha": opacity, "lw": 0}
    axes.fill_between(x[efficient], low[efficient], high[efficient], **band)
    axes.plot(x[efficient], y[efficient], color=colour, lw=1.5)
    # Hollow: no schedule of its own ended there, but another run's change was altered.
    filled = [colour if cell.point.is_trained else "none" for cell in grid.cells]
    style = {"facecolors": filled, "edgecolors": colour, "marker": marker, "zorder": 3}
    axes.scatter(x, y, s=42, label=method, **style)


def _rates(grid: Grid, all_cells: bool) -> list[tuple[float, float, str]]:
    """(learning, forgetting, learning rate) of the cells that are labelled."""
    cells = range(len(grid.cells)) if all_cells else sorted({0, len(grid.cells) - 1})
    x, y = grid.arm.x.means(), grid.arm.y.means()
    return [(float(x[cell]), float(y[cell]), grid.cells[cell].mark) for cell in cells]
