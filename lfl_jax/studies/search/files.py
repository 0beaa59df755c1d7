"""What a finished search leaves: search.json, a figure with its data, and the command to use."""

import functools
import itertools
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lfl_jax.config import MAY_CHANGE
from lfl_jax.core import files
from lfl_jax.report.study.figures.style import COLOURS, COLUMN, INK, Figure, draw_legend
from lfl_jax.report.study.tables import Table
from lfl_jax.statistics.effects import Effect
from lfl_jax.studies.search.choice import Choice
from lfl_jax.studies.search.rungs import Rung, Tested
from lfl_jax.studies.search.search import Candidate, SearchConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Of ranks, from the lowest; colours are of sets of modules.
LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Report:
    """A finished search.

    tested: on the test items, empty where the best was refused. flags: reservations about the
    data.
    """

    config: SearchConfig
    rungs: Sequence[Rung]
    choice: Choice
    tested: Sequence[Tested]
    command: str
    flags: tuple[str, ...] = ()

    def went_on(self, index: int) -> set[Candidate]:
        """The candidates of a rung that were taken to the next one; of the last, the best."""
        if index == len(self.rungs) - 1:
            return {self.choice.best}
        return set(self.rungs[index].going_on(self.config.keep))


def command(config: SearchConfig, best: Candidate) -> str:
    """The command of one run with the best candidate."""
    # As in `grid`: what a config is named by, then words.
    file, colon, words = config.base.partition(":")
    config_file = file if file.endswith(".py") else f"configs/{file}.py"
    # What is only measured or kept is the user's own to choose.
    fields = {name: x for name, x in config.config if name.partition(".")[0] not in MAY_CHANGE}
    fields |= {
        "optim.lr": best.lr,
        "adapter.targets": config.targets[best.targets],
        "adapter.rank": best.rank,
        "train.steps": config.steps[-1],
    }
    flags = [f"--config.{name}={x}" for name, x in fields.items()]
    arguments = (f"--config={config_file}{colon}{words}", *flags, f"--workdir=runs/{best.arm}")
    return " ".join(["python -m lfl_jax.main", *map(shlex.quote, arguments)])


def write(report: Report, folder: Path) -> Path:
    """search.json, and the figure as SVG, PDF and PNG with its data as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "search.json", content(report))
    figure = draw(report)
    figure.write(folder, figure.svg())
    files.write_text(folder / f"{figure.name}.csv", figure.data.csv())
    return folder / "search.json"


def content(report: Report) -> dict[str, object]:
    """search.json: everything that was measured and decided."""
    choice, config = report.choice, report.config
    optimum = choice.optimum
    rungs = [_rung(report, index) for index in range(len(report.rungs))]
    return {
        "name": config.name,
        "command": report.command,
        "base": config.base,
        "measure": str(config.measure),
        "higher_is_better": report.rungs[-1].sign > 0,
        "searched": {"lr": config.rates, "targets": config.targets, "rank": config.ranks},
        "rungs": rungs,
        "best": _named(choice.best) | {"dev": _effect(choice.score), "chosen_again": choice.share},
        "lr_optimum": optimum and {"lr": optimum.rate, "interval": _finite(optimum.interval())},
        "no_lr_optimum": choice.no_optimum,
        "refused": choice.edges,
        "test": list(map(_tested, report.tested)),
        "flags": report.flags,
        "to_use": None if choice.edges else command(config, choice.best),
        "versions": {name: version(name) for name in ("jax", "lfl_jax", "numpy", "scipy")},
    }


def _rung(report: Report, index: int) -> dict[str, object]:
    rung, went_on = report.rungs[index], report.went_on(index)
    rows, dropped = [], []
    for candidate in rung.ranked():
        by_seed = rung.values[candidate].mean(axis=1).tolist()
        rows.append(_named(candidate) | {"by_seed": by_seed, "goes_on": candidate in went_on})
    for candidate, why in rung.dropped.items():
        dropped.append(_named(candidate) | {"reason": why})
    return {"steps": rung.steps, "seeds": rung.seeds, "candidates": rows, "dropped": dropped}


def _tested(row: Tested) -> dict[str, object]:
    return {
        "measure": str(row.measure),
        "label": row.label,
        "base": row.base,
        "tuned": row.tuned,
        "change": _effect(row.change),
    }


def _effect(effect: Effect) -> dict[str, object]:
    return {"mean": effect.mean, "interval": _finite(effect.interval())}


def _finite(interval: tuple[float, float]) -> tuple[float, float] | None:
    return None if math.isnan(interval[0]) else interval


def _named(candidate: Candidate) -> dict[str, object]:
    return {"targets": candidate.targets, "rank": candidate.rank, "lr": candidate.lr}


def draw(report: Report) -> Figure:
    """The measure over the learning rate, a panel for each rung."""
    return Figure(
        "search",
        "The search",
        "Over the learning rate, at each length. Filled: goes on to the next rung; at the last, the"
        " best, with the interval of its learning rate shaded.",
        _data(report),
        functools.partial(_paint, report),
        (3.4, 2.2 * len(report.rungs)),
        report.flags,
    )


def _paint(report: Report, canvas: "Canvas") -> None:
    count = len(report.rungs)
    # Beside each other on a page, one above another in a paper's column.
    shape = (1, count) if canvas.get_figwidth() > COLUMN else (count, 1)
    panels = canvas.subplots(*shape, squeeze=False).ravel()
    for index, axes in enumerate(panels):
        _draw_rung(axes, report, index)
    if report.choice.optimum is not None:
        panels[-1].axvspan(*report.choice.optimum.interval(), color=INK, alpha=0.15, lw=0)
    canvas.supxlabel("learning rate")
    canvas.supylabel(f"{report.config.measure}, dev items")
    draw_legend(canvas, panels[0])


def _draw_rung(axes: "Axes", report: Report, index: int) -> None:
    rung, went_on, rates = report.rungs[index], report.went_on(index), report.config.rates
    for (targets, rank), style in _styles(report.config).items():
        sweep = [c for c in rung.values if (c.targets, c.rank) == (targets, rank)]
        sweep.sort(key=lambda c: c.lr)
        points = np.array([(c.lr, rung.values[c].mean()) for c in sweep]).reshape(-1, 2).T
        axes.plot(*points, lw=1.2, label=f"{targets}, rank {rank}", **style)
        filled = [style["color"] if c in went_on else "none" for c in sweep]
        axes.scatter(*points, s=20, edgecolors=style["color"], facecolors=filled, zorder=3)
    axes.set(xscale="log", title=f"{rung.steps} steps")
    # The rates themselves, of every rung alike.
    axes.set_xticks(rates, [f"{lr:g}" for lr in rates], rotation=45)
    axes.set_xticks([], minor=True)
    axes.set_xlim(rates[0] / 1.3, rates[-1] * 1.3)


def _styles(config: SearchConfig) -> dict[tuple[str, int], dict[str, str]]:
    """A line for each set of modules and rank."""
    styles = {}
    for colour, targets in zip(itertools.cycle(COLOURS), config.targets, strict=False):
        for line, rank in zip(itertools.cycle(LINES), config.ranks, strict=False):
            styles[targets, rank] = {"color": colour, "linestyle": line}
    return styles


def _data(report: Report) -> Table:
    rows = []
    for rung in report.rungs:
        for candidate, values in rung.values.items():
            for seed, score in zip(rung.seeds, values.mean(axis=1).tolist(), strict=True):
                rows.append((rung.steps, *_named(candidate).values(), seed, score))
    columns = ("steps", "targets", "rank", "lr", "seed", "score")
    return Table("search", "Every run of the search, on dev items.", columns, tuple(rows))
