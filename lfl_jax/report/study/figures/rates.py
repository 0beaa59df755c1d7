"""Learning and forgetting over the learning rate, with each method's best one."""

import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lfl_jax.report.study import tables
from lfl_jax.report.study.figures.style import (
    INK,
    NOISE,
    Figure,
    Look,
    draw_legend,
    draw_noise,
    draw_noise_of_forgetting,
    intervals,
    looks,
    use_plain_ticks,
)
from lfl_jax.statistics.frontier import Axis
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

EDGE = "best at an edge"
# From the longest runs down; a study with more lengths than this repeats the last.
DASHES = ("-", "--", ":")


def rates(findings: Findings) -> Figure:
    """Two panels: what was learned above, what was forgotten below."""
    return Figure(
        "learning_rates",
        "Over the learning rate",
        "Bars: 95 % intervals over seeds and items; dashed lines are of shorter runs. Shaded in a"
        " method's colour: the interval of its best learning rate. Ringed: a best rate at the edge"
        f" of its sweep, so that the best one is not known. Grey: {NOISE}, around no forgetting,"
        " and below the most that was learned.",
        tables.points(findings),
        functools.partial(_paint, findings),
        (5.6, 4.8),
    )


def _paint(findings: Findings, canvas: "Canvas") -> None:
    above, below = canvas.subplots(2, 1, sharex=True)
    drawn = looks(findings.grids)
    for best in findings.best_rates:
        grid, look = findings.grids[best.method], drawn[best.method]
        # A rate stands for several points of one run: there is no curve over it.
        if grid.is_derived:
            continue
        _draw_sweeps(above, grid.arm.x, grid, look, best.method)
        _draw_sweeps(below, grid.arm.y, grid, look, best.method)
        # Of one seed the optimum has no interval.
        if best.optimum is not None and np.all(np.isfinite(best.optimum.interval())):
            above.axvspan(*best.optimum.interval(), color=look.colour, alpha=0.12, lw=0)
        _ring_edge(above, grid)

    most = max(float(grid.arm.x.means().max()) for grid in findings.grids.values())
    draw_noise(above, most - 2 * findings.noise_floor.learning, most)
    draw_noise_of_forgetting(below, findings)
    measures = findings.question.measures
    above.set(ylabel=f"learned\n{findings.learning_label}", xscale="log")
    below.set(ylabel=f"forgotten\n{findings.label(measures.forgetting)}", xlabel="learning rate")
    use_plain_ticks(below)
    draw_legend(canvas, above)


def _draw_sweeps(axes: "Axes", axis: Axis, grid: Grid, look: Look, method: str) -> None:
    """A line for each length of the runs."""
    numbers = intervals(axis)
    for index, length in enumerate(grid.lengths):
        chosen = grid.of_length(length)
        style = {"color": look.colour, "marker": look.marker, "ms": 5, "capsize": 2}
        style["linestyle"] = DASHES[min(index, len(DASHES) - 1)]
        # In the legend a method stands once.
        style["label"] = method if index == 0 else None
        _draw_sweep(axes, grid.rates[chosen], numbers[:, chosen], style)


def _draw_sweep(
    axes: "Axes",
    rates: Float[np.ndarray, " K"],
    numbers: Float[np.ndarray, "3 K"],
    style: dict[str, str | float | None],
) -> None:
    # Matplotlib takes the distances to the limits, not the limits.
    mean, low, high = numbers
    axes.errorbar(rates, mean, np.stack([mean - low, high - mean]), **style)


def _ring_edge(axes: "Axes", grid: Grid) -> None:
    """Around a best rate that has no neighbour on one side."""
    chosen = grid.of_length(grid.longest)
    best = chosen[int(np.argmax(grid.arm.x.means()[chosen]))]
    if best not in (chosen[0], chosen[-1]):
        return
    # One entry of the legend for all methods.
    label = EDGE if EDGE not in axes.get_legend_handles_labels()[1] else None
    ring = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.2, "zorder": 4}
    axes.scatter(grid.rates[best], grid.arm.x.means()[best], s=130, label=label, **ring)
