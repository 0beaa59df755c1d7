"""One contrast in several studies, against the size of their models."""

import functools
from typing import TYPE_CHECKING

from lfl_jax.report.study.figures.style import COLOURS, INK, Figure
from lfl_jax.report.study.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def across(table: Table) -> Figure:
    """The rows of `studies.across`: study, parameters, difference, low, high, verdict."""
    return Figure("across", "Across sizes", table.caption, table, functools.partial(_paint, table))


def _paint(table: Table, canvas: "Canvas") -> None:
    axes = canvas.subplots()
    axes.axhline(0, color=INK, lw=0.8)
    for study, parameters, effect, low, high, verdict in table.rows:
        axes.plot([parameters, parameters], [low, high], color=COLOURS[0], lw=2)
        axes.plot(parameters, effect, "o", color=COLOURS[0], ms=6)
        axes.annotate(f" {study}: {verdict}", (parameters, effect), fontsize=7, va="bottom")
    axes.set_xscale("log")
    # Room on the right for the last study's name.
    axes.set_xlim(right=axes.get_xlim()[1] * 2)
    axes.set(xlabel="parameters of the base", ylabel="first less second, forgetting")
