"""The figures of a study, in one style, each with the table it is drawn from."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lfl_jax.report.study import tables
from lfl_jax.report.study.tables import Table
from lfl_jax.statistics.frontier import pareto
from lfl_jax.studies.answers import PRIMARY, Answer
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito's colours, told apart with any colour vision; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00")
MARKERS = "osD^vPX"
# Readable on white and on black: the page has both.
INK = "#767676"
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
}
COLUMN = 3.4  # inches: one column of a paper
WIDE = 7.0


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption and its data."""

    name: str
    title: str
    caption: str
    canvas: "Canvas"
    data: Table

    def svg(self) -> str:
        """To stand inside of a page: without the file's head, and with the page's width."""
        import matplotlib as mpl

        file = io.StringIO()
        # Ids are hashes of the salt, not of the moment: equal findings make equal files.
        with mpl.rc_context({**STYLE, "svg.hashsalt": "lfl_jax"}):
            self.canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        text = file.getvalue()
        return text[text.index("<svg") :]

    def write(self, folder: Path, svg: str) -> None:
        """NAME.svg, which is drawn already, NAME.pdf and NAME.png."""
        (folder / f"{self.name}.svg").write_text(svg, "utf-8")
        width, height = self.canvas.get_size_inches()
        self.canvas.savefig(folder / f"{self.name}.png", dpi=200)
        # The PDF is as wide as a column, its text as large as a paper's.
        self.canvas.set_size_inches(COLUMN * max(1, round(width / COLUMN)), height)
        self.canvas.savefig(folder / f"{self.name}.pdf", metadata={"CreationDate": None})
        self.canvas.set_size_inches(width, height)


def draw(findings: Findings) -> list[Figure]:
    """Every figure that there is something to draw for."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        drawn = [frontier(findings), rates(findings), contrasts(findings)]
        if findings.question.measures.divergence is not None:
            drawn.append(divergence(findings))
        return drawn


def frontier(findings: Findings) -> Figure:
    """Forgetting over learning: every run, every cell's mean, and each method's frontier."""
    canvas, axes = _canvas(WIDE, 4.2)
    for index, (method, grid) in enumerate(findings.grids.items()):
        _draw_frontier(axes, grid, method, index)
    primary = findings.answers[0].evidence
    if primary is not None:
        axes.axvspan(primary.low, primary.high, color=INK, alpha=0.08, lw=0)
    axes.set(xlabel=f"learned: {findings.question.measures.learning}")
    axes.set(ylabel=f"forgotten: {findings.question.measures.forgetting}")
    axes.legend()
    return Figure(
        "frontier",
        "What was learned, what was forgotten",
        "Small: every run. Large: the mean of a learning rate over seeds; a line joins those that"
        " no other one of the method beats. Shaded: the learning that both methods of the first"
        " contrast reach, over which their gap is averaged.",
        canvas,
        tables.runs(findings),
    )


def _draw_frontier(axes: "Axes", grid: Grid, method: str, index: int) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    x, y = grid.arm.x.values.mean(axis=2), grid.arm.y.values.mean(axis=2)
    axes.scatter(x, y, s=8, color=colour, marker=marker, alpha=0.35, lw=0)

    means = grid.arm.x.means(), grid.arm.y.means()
    efficient = pareto(*means)
    axes.plot(means[0][efficient], means[1][efficient], color=colour, lw=1.5)
    axes.scatter(*means, s=42, color=colour, marker=marker, label=method, zorder=3)
    for cell, *point in zip(grid.cells, *means, strict=True):
        axes.annotate(cell.mark, point, (4, 4), textcoords="offset points", fontsize=7, color=INK)


def rates(findings: Findings) -> Figure:
    """Learning and forgetting over the learning rate, with each method's best one."""
    canvas, (above, below) = _canvas(WIDE, 5.2, rows=2)
    points = tables.points(findings)
    for index, best in enumerate(findings.best_rates):
        # A rate stands for several scales of one run: there is no curve over it.
        if any(cell.scale != 1 for cell in findings.grids[best.method].cells):
            continue
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        style = {"color": colour, "marker": marker, "ms": 5, "capsize": 2, "label": best.method}
        lrs, *numbers = _by_rate(points, best.method)
        _draw_rates(above, lrs, *numbers[:3], style)
        _draw_rates(below, lrs, *numbers[3:], style)
        if best.optimum is not None:
            above.axvspan(*best.optimum.interval(), color=colour, alpha=0.15, lw=0)
    above.set(ylabel="learned", xscale="log")
    below.set(ylabel="forgotten", xscale="log", xlabel="learning rate")
    above.legend()
    return Figure(
        "learning_rates",
        "Over the learning rate",
        "Bars: 95 % intervals over seeds and items. Shaded: the interval of a method's best"
        " learning rate; a method without one has its best rate at the edge of its sweep.",
        canvas,
        points,
    )


def _by_rate(points: Table, method: str) -> list[np.ndarray]:
    """A method's columns of `tables.points`, in the order of its learning rates, without cells."""
    rows = [row for row in points.rows if row[0] == method]
    cells = sorted((lr, *numbers) for _, lr, _, _, *numbers in rows)
    return [np.array(column, float) for column in zip(*cells, strict=True)]


def _draw_rates(
    axes: "Axes",
    lrs: np.ndarray,
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    style: Mapping[str, str | float],
) -> None:
    # Matplotlib takes the distances to the limits, not the limits.
    axes.errorbar(lrs, mean, np.stack([mean - low, high - mean]), **style)


def contrasts(findings: Findings) -> Figure:
    """Every contrast's effect and interval beside the margin."""
    answers = [answer for answer in findings.answers if answer.decision is not None]
    canvas, axes = _canvas(WIDE, 1.2 + 0.42 * max(len(answers), 1))
    margin = findings.question.margin
    axes.axvspan(-margin, margin, color=INK, alpha=0.12, lw=0)
    axes.axvline(0, color=INK, lw=0.8)
    # The first contrast stands on top.
    for height, answer in enumerate(reversed(answers)):
        _draw_contrast(axes, answer, height)
    labels = [f"{a.first} – {a.second}\n{_equal(a)}" for a in reversed(answers)]
    axes.set_yticks(range(len(answers)), labels)
    axes.set(xlabel=f"difference in forgetting ({findings.question.measures.forgetting})")
    axes.set_ylim(-0.6, max(len(answers), 1) - 0.4)
    return Figure(
        "contrasts",
        "Contrasts",
        f"The first method's forgetting less the second's, with its 95 % interval. Shaded: the"
        f" margin of {margin:g}. Blue: the primary contrasts, declared beforehand.",
        canvas,
        tables.verdicts(findings),
    )


def divergence(findings: Findings) -> Figure:
    """Forgetting over the divergence from the base, every run a point."""
    canvas, axes = _canvas(WIDE, 4.2)
    for index, (method, grid) in enumerate(findings.grids.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        far, forgotten = (axis.values.mean(axis=2) for axis in (grid.divergence, grid.arm.y))
        axes.scatter(
            far, forgotten, s=22, color=colour, marker=marker, alpha=0.7, lw=0, label=method
        )
    measures = findings.question.measures
    axes.set(
        xscale="log", xlabel=f"{measures.divergence}", ylabel=f"{measures.forgetting} forgotten"
    )
    axes.legend()
    return Figure(
        "divergence",
        "Forgetting and the distance from the base",
        "Every run. Where methods lie on one curve, the distance explains what they forget.",
        canvas,
        tables.divergences(findings),
    )


def _draw_contrast(axes: "Axes", answer: Answer, height: int) -> None:
    colour = COLOURS[0] if answer.equal == PRIMARY else INK
    effect = answer.decision.effect
    axes.plot(effect.interval(), [height, height], color=colour, lw=2)
    axes.plot(effect.mean, height, "o", color=colour, ms=6)
    beside = ("axes fraction", "data")
    axes.annotate(f"{answer.decision.verdict}", (1.01, height), xycoords=beside, va="center")


def _equal(answer: Answer) -> str:
    return f"at each one's {answer.equal}" if "rate" in answer.equal else f"at equal {answer.equal}"


def _canvas(width: float, height: float, rows: int = 1) -> tuple["Canvas", "Axes | Sequence[Axes]"]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained")
    return canvas, canvas.subplots(rows, 1)
