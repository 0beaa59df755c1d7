"""The task matrix: scores on every task after each, of each method at its best learning rate."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lfl_jax.report.study import transfer as tabular
from lfl_jax.report.study.figures.style import INK, SMALL, Figure
from lfl_jax.report.study.tables import Table
from lfl_jax.studies.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Inches: of a row of numbers, and of a panel's names.
ROW, NAMES = 0.26, 0.75
# Method -> scores; NaN where nothing was scored.
Panels = Mapping[str, Float[np.ndarray, "N K"]]


def matrix(findings: Findings) -> Figure | None:
    """A panel for each method, a row for each task trained on; None without a sequence."""
    table = tabular.matrix(findings)
    panels, rows, columns = _panels(table)
    if not panels:
        return None
    height = 0.4 + len(panels) * (NAMES + ROW * len(rows))
    return Figure(
        "transfer_matrix",
        "Tasks one after another",
        "The score on every task (columns) after training on each in turn (rows), of each method at"
        " its best learning rate: the mean over seeds. Right of the line: what the base was trained"
        " on. Darker is better, within a column. Framed: a task right after its own training; below"
        " the frame is what was left of it.",
        table,
        functools.partial(_paint, panels, rows, columns, len(findings.sequence)),
        (height, height),
    )


def _panels(table: Table) -> tuple[Panels, list[str], dict[str, str]]:
    """(numbers by method, what was trained on, {what was scored: whether higher is better}).

    The base is first in every panel.
    """
    numbers = {(row[0], row[2], row[3]): row[6] for row in table.rows}
    columns = {row[3]: row[5] for row in table.rows}
    rows = list(dict.fromkeys(row[2] for row in table.rows))
    methods = dict.fromkeys(row[0] for row in table.rows if row[0] != tabular.BASE)
    panels = {}
    for method in methods:
        panels[method] = np.empty((len(rows), len(columns)))
        for index in np.ndindex(len(rows), len(columns)):
            after, name = rows[index[0]], list(columns)[index[1]]
            owner = tabular.BASE if after == tabular.BASE else method
            panels[method][index] = numbers[owner, after, name]
    return panels, rows, columns


def _paint(
    panels: Panels, rows: list[str], columns: dict[str, str], tasks: int, canvas: "Canvas"
) -> None:
    drawn = canvas.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    signs = np.array([1.0 if better == "higher" else -1.0 for better in columns.values()])
    everything = np.concatenate(list(panels.values())) * signs
    low, high = everything.min(axis=0), everything.max(axis=0)
    for axes, (method, numbers) in zip(drawn, panels.items(), strict=True):
        # A column that nothing changed has one shade.
        shares = (numbers * signs - low) / np.where(high > low, high - low, 1.0)
        _draw_panel(axes, numbers, shares, tasks)
        axes.set_title(method, fontsize=8, loc="left")
        axes.set_yticks(range(len(rows)), rows, fontsize=SMALL)
    ticks = {"fontsize": SMALL, "rotation": 20, "ha": "right"}
    drawn[-1].set_xticks(range(len(columns)), list(columns), **ticks)


def _draw_panel(
    axes: "Axes", numbers: Float[np.ndarray, "N K"], shares: Float[np.ndarray, "N K"], tasks: int
) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(shares, cmap="Blues", vmin=-0.1, vmax=1.4, aspect="auto")
    for (row, column), number in np.ndenumerate(numbers):
        where = {"ha": "center", "va": "center", "fontsize": SMALL}
        axes.text(column, row, f"{number:.3g}", color="black", **where)
    for task in range(tasks):
        # The base is the first row.
        frame = {"fill": False, "edgecolor": "black", "lw": 1.2}
        axes.add_patch(Rectangle((task - 0.5, task + 0.5), 1, 1, **frame))
    axes.axvline(tasks - 0.5, color=INK, lw=1.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
