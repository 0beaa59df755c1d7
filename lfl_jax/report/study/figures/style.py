"""One style for the figures of a study, and what a figure is: drawn twice, for a page and a paper.

Readers with any colour vision tell the methods apart, by colour and by marker. Filled markers are
of finished schedules, hollow ones of anything else. A grey band is the noise floor.
"""

import functools
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lfl_jax.report.study.tables import Table
from lfl_jax.statistics.frontier import Axis
from lfl_jax.studies.cells import cell_mean
from lfl_jax.studies.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito's colours, told apart with any colour vision; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00")
MARKERS = "osD^vPX"
# Readable on white and on black: the page has both.
INK = "#767676"
FLAG = "#D55E00"
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
}
COLUMN = 3.4  # inches: one column of a paper
WIDE = 7.0
POINTS = 72  # per inch
LEGEND = 8  # points
SMALL = 7  # points: labels of points, and flags
# A character's width over its height: the mean of the default font, rounded up.
CHARACTER = 0.55

# Captions say it in full, legends in short.
NOISE = "two standard deviations of one run over seeds"
NOISE_LABEL = "2 sd of a run"


class Look(NamedTuple):
    """How a method is drawn, in every figure."""

    colour: str
    marker: str


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """{method: its look}; colours repeat after seven methods, with other markers."""
    count = len(COLOURS)
    return {
        method: Look(COLOURS[index % count], MARKERS[(index + index // count) % len(MARKERS)])
        for index, method in enumerate(methods)
    }


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption and its data.

    paint: draws on an empty canvas of any width. heights: inches, on the page and in a paper's
    column. flags: reservations about the data, which are drawn into every file.
    """

    name: str
    title: str
    caption: str
    data: Table
    paint: Callable[["Canvas"], None]
    heights: tuple[float, float] = (4.2, 3.0)
    flags: tuple[str, ...] = ()

    @functools.cached_property
    def page(self) -> "Canvas":
        """The drawing at the page's width."""
        return self._painted(WIDE, self.heights[0])

    def svg(self) -> str:
        """To stand inside of a page: without the file's head, and with the page's width."""
        import matplotlib as mpl

        file = io.StringIO()
        # Ids are hashes of the salt, not of the moment: equal findings make equal files.
        with mpl.rc_context({**STYLE, "svg.hashsalt": "lfl_jax"}):
            self.page.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        text = file.getvalue()
        return text[text.index("<svg") :]

    def write(self, folder: Path, svg: str) -> None:
        """NAME.svg, which is drawn already, NAME.png, and NAME.pdf as wide as a column."""
        (folder / f"{self.name}.svg").write_text(svg, "utf-8")
        self.page.savefig(folder / f"{self.name}.png", dpi=200)
        column = self._painted(COLUMN, self.heights[1])
        column.savefig(folder / f"{self.name}.pdf", metadata={"CreationDate": None})

    def _painted(self, width: float, height: float) -> "Canvas":
        import matplotlib as mpl
        from matplotlib.figure import Figure as Canvas

        per_line = int(width * POINTS / (SMALL * CHARACTER))
        lines = [line for flag in self.flags for line in textwrap.wrap(flag, per_line)]
        # The flags have room of their own: the drawing is as high with them as without.
        added = 1.3 * SMALL * len(lines) / POINTS
        with mpl.rc_context(STYLE):
            canvas = Canvas(figsize=(width, height + added), layout="constrained")
            if lines:
                style = {"ha": "left", "fontsize": SMALL, "color": FLAG}
                canvas.supxlabel("\n".join(lines), x=0.01, **style)
            self.paint(canvas)
        return canvas


def intervals(axis: Axis) -> Float[np.ndarray, "3 P"]:
    """Mean, low and high of every cell: 95 % over seeds and items; NaN for a single seed."""
    means = [cell_mean(axis, cell) for cell in range(axis.values.shape[1])]
    return np.array(means).T


def draw_noise(axes: "Axes", low: float, high: float) -> None:
    """The band of what one run cannot tell apart; none where the noise is not known."""
    if low < high:
        axes.axhspan(low, high, label=NOISE_LABEL, color=INK, alpha=0.22, lw=0, zorder=0)


def draw_noise_of_forgetting(axes: "Axes", findings: Findings) -> None:
    """The band around no forgetting."""
    reach = 2 * findings.noise_floor.forgetting
    draw_noise(axes, -reach, reach)


def draw_legend(canvas: "Canvas", axes: "Axes") -> None:
    """Of one of the canvas's axes, above all of them, for which the canvas grows; bands last."""
    from matplotlib.container import ErrorbarContainer

    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    # Matplotlib lists error bars after everything else.
    order = sorted(range(len(labels)), key=lambda i: not isinstance(handles[i], ErrorbarContainer))
    labels = [labels[i] for i in order]
    handles = [handles[i] for i in order]
    columns = _columns(list(map(len, labels)), canvas.get_figwidth() * POINTS)
    canvas.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=LEGEND)
    # A long legend takes nothing from the drawing.
    rows = math.ceil(len(labels) / columns)
    canvas.set_figheight(canvas.get_figheight() + 1.5 * LEGEND * (rows - 1) / POINTS)


def _columns(lengths: Sequence[int], width: float) -> int:
    """The most columns of a legend that fit: of characters, into points."""
    for columns in range(len(lengths), 1, -1):
        # As matplotlib fills them. A handle and its gaps take the room of seven characters.
        widest = [max(column) + 7 for column in np.array_split(lengths, columns)]
        if sum(widest) * CHARACTER * LEGEND <= width:
            # As many rows, with entries as even as they can be.
            return math.ceil(len(lengths) / math.ceil(len(lengths) / columns))
    return 1


def use_plain_ticks(axes: "Axes") -> None:
    """Of a logarithmic x axis that is drawn: 0.002 and not 2 x 10^-3, as many as there is room."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    per_decade = axes.get_figure().get_figwidth() / math.log10(high / low)
    # A tick's label is about half an inch wide.
    subs = (1.0, 2.0, 5.0) if per_decade > 2.2 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
