"""Answers that turned from correct to incorrect and back, beyond what guessing turns."""

import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lfl_jax.report.study import tables
from lfl_jax.report.study.figures.style import COLOURS, INK, Figure, draw_legend
from lfl_jax.statistics.effects import over_seeds
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.flips import FlipRates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

ROW = 0.3  # inches
# Of a method's two marks, so that their intervals do not cover each other.
APART = 0.16


def flips(findings: Findings) -> Figure | None:
    """A panel for each task, a row for each method; None where no task is right or wrong."""
    if not findings.flips:
        return None
    panels = len(findings.flips)
    height = 0.8 + panels * (0.7 + ROW * len(findings.grids))
    return Figure(
        "flips",
        "Answers that turned",
        "Items that became incorrect, and correct, at the learning rate where a method learned"
        " most, less those that turn when both models guess; 95 % intervals over seeds. Small and"
        " grey: before chance is taken off.",
        tables.flips(findings),
        functools.partial(_paint, findings),
        (height, height),
    )


def _paint(findings: Findings, canvas: "Canvas") -> None:
    panels = canvas.subplots(len(findings.flips), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (measure, by_method) in zip(panels, findings.flips.items(), strict=True):
        axes.set_title(measure, fontsize=9, loc="left")
        # The first method stands on top.
        for height, (method, rates) in enumerate(reversed(by_method.items())):
            _draw_method(axes, rates, findings.grids[method].most_learned, height)
        axes.set_yticks(range(len(by_method)), list(reversed(by_method)))
        axes.set_ylim(-0.6, len(by_method) - 0.4)
        axes.grid(visible=False, axis="y")
    panels[-1].set(xlabel="% of items")
    draw_legend(canvas, panels[0])


def _draw_method(axes: "Axes", rates: FlipRates, cell: int, height: int) -> None:
    # In the legend each mark stands once.
    is_first = height == 0
    rows = (
        ("became incorrect, beyond chance", rates.forgotten, rates.lost, APART, COLOURS[1], "o"),
        ("became correct, beyond chance", rates.learned, rates.gained, -APART, COLOURS[0], "s"),
    )
    for label, corrected, raw, above, colour, marker in rows:
        at = height + above
        effect = over_seeds(100 * corrected[:, cell])
        axes.plot(effect.interval(), (at, at), color=colour, lw=2)
        style = {"color": colour, "marker": marker, "ms": 6, "ls": "none"}
        axes.plot(effect.mean, at, label=label if is_first else None, **style)
        _draw_raw(axes, 100 * raw[:, cell], at, marker)


def _draw_raw(axes: "Axes", percent: Float[np.ndarray, " S"], at: float, marker: str) -> None:
    axes.plot(percent.mean(), at, color=INK, marker=marker, ms=3, ls="none", zorder=1)
