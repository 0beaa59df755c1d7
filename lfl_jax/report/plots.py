"""Figures of a run, made where matplotlib is installed (extra `plots`)."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfl_jax.core import files
from lfl_jax.evals.metrics import Section
from lfl_jax.evals.run import Result
from lfl_jax.evals.stats import Estimate
from lfl_jax.io.metrics import METRICS_FILE
from lfl_jax.report.rows import Report, Row

Curve = dict[int, Estimate]
Variants = Mapping[str, Mapping[str, Result]]  # {"base" or "tuned": {task: result}}
SHADE = 0.18  # of the band of an interval
# Okabe and Ito's colours, told apart with any colour vision; lines differ by marker and dashes as
# well.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"
STYLES = (
    {"color": GREY, "marker": "s", "linestyle": "--"},
    {"color": BLUE, "marker": "o", "linestyle": "-"},
)


def draw(report: Report, variants: Variants, folder: Path) -> list[Path]:
    """Every figure that there is something to draw for; a line says so where matplotlib is not
    installed."""
    if not importlib.util.find_spec("matplotlib"):
        print("no figures: matplotlib is not installed (pip install 'lfl_jax[plots]')")  # noqa: T201
        return []
    figures = (pass_at_k(variants, folder), learning_forgetting(report, folder))
    return [figure for figure in figures if figure is not None]


def pass_at_k(variants: Variants, folder: Path) -> Path | None:
    """pass_at_k.png in `folder`: pass@k of every coding task, a line per variant with its 95 %
    interval.

    None, and no file, where no task has more than one sample of a problem, or matplotlib is not
    installed.
    """
    curves = {
        name: {task: curve(result) for task, result in results.items()}
        for name, results in variants.items()
    }
    labels = {
        task: result.label for results in variants.values() for task, result in results.items()
    }
    tasks = list(
        dict.fromkeys(
            t for found in curves.values() for t, points in found.items() if len(points) > 1
        )
    )
    if not tasks or not importlib.util.find_spec("matplotlib"):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(tasks), 3.4), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        of_task = {name: found.get(task, {}) for name, found in curves.items()}
        _draw_curves(axes, of_task, labels[task], ks_of(curves, task))
    path = folder / "pass_at_k.png"
    figure.savefig(path, dpi=150)
    return path


def _draw_curves(axes: Any, curves: Mapping[str, Curve], title: str, ks: Sequence[int]) -> None:
    """A task's curves, by variant; k is on a scale of powers of 2."""
    for (name, points), style in zip(curves.items(), STYLES[-len(curves) :], strict=True):
        _draw_curve(axes, points, name, style)
    axes.set(title=title, xlabel="k", ylabel="pass@k", ylim=(0, 1))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_curve(axes: Any, points: Curve, label: str, style: dict[str, str]) -> None:
    ks, estimates = list(points), list(points.values())
    axes.plot(ks, [e.mean for e in estimates], markersize=4, label=label, **style)
    axes.fill_between(
        ks,
        [e.low for e in estimates],
        [e.high for e in estimates],
        alpha=SHADE,
        color=style["color"],
    )


def curve(result: Result) -> Curve:
    """{k: pass@k} of a result, in the order of k."""
    found = {
        name.removeprefix("pass@"): e
        for name, e in result.metrics.items()
        if name.startswith("pass@")
    }
    return {int(k): found[k] for k in sorted(found, key=int)}


def ks_of(curves: Mapping[str, Mapping[str, Curve]], task: str) -> list[int]:
    """Every k at which a variant has a point."""
    return sorted({k for found in curves.values() for k in found.get(task, {})})


@dataclass(frozen=True)
class Axis:
    """A row's change, with the sign that makes it grow to the right (learned) or upwards
    (forgotten).

    by_step: {step: the metric on the dev items}, the base's at step 0; empty where it was not
    evaluated in training.
    """

    question: str
    row: Row
    sign: int
    by_step: Mapping[int, float]

    @property
    def label(self) -> str:
        """What moves, which way, in which unit."""
        direction = "increase" if self.sign > 0 else "decrease"
        unit = " (points)" if self.row.percent else ""
        return f"{self.question}\n{direction} of {self.row.label}{unit}"

    @property
    def change(self) -> tuple[float, list[list[float]]]:
        """The change from base to tuned, and how far its 95 % interval reaches below and above."""
        e, scale = self.row.change, self._scale
        center = scale * e.mean
        low, high = sorted((scale * e.low, scale * e.high))
        reach = [0.0 if math.isnan(x) else max(x, 0.0) for x in (center - low, high - center)]
        return center, [[reach[0]], [reach[1]]]

    def path(self, steps: Sequence[int]) -> list[float]:
        """The change since the base on the dev items, at these steps."""
        return [self._scale * (self.by_step[step] - self.by_step[0]) for step in steps]

    @property
    def _scale(self) -> float:
        return self.sign * (100.0 if self.row.percent else 1.0)


def learning_forgetting(report: Report, folder: Path) -> Path | None:
    """learning_forgetting.png in `folder`: what was learned to the right, what was forgotten
    upwards, the base at 0, 0.

    The tuned model stands with its 95 % intervals; its way there over training is drawn where dev
    scores of both (config.eval.every and every_tasks) are in metrics.jsonl. None where nothing was
    learned or forgotten, or matplotlib is not installed.
    """
    axes_of = _axes(report, _dev_scores(folder))
    if axes_of is None or not importlib.util.find_spec("matplotlib"):
        return None
    from matplotlib.figure import Figure

    x, y = axes_of
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    _draw_path(axes, x, y)
    axes.plot(
        0, 0, marker="s", markersize=8, color="black", linestyle="none", label="base", zorder=4
    )
    (x_center, x_reach), (y_center, y_reach) = x.change, y.change
    bars = {"capsize": 4, "markersize": 9, "color": ORANGE, "linestyle": "none", "zorder": 5}
    axes.errorbar(
        x_center,
        y_center,
        xerr=x_reach,
        yerr=y_reach,
        fmt="D",
        label="tuned, 95% intervals",
        **bars,
    )
    axes.set(xlabel=x.label, ylabel=y.label)
    axes.margins(0.15)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside upper left", frameon=False, ncols=3)
    path = folder / "learning_forgetting.png"
    figure.savefig(path, dpi=150)
    return path


def _draw_path(axes: Any, x: Axis, y: Axis) -> None:
    """The dev scores by step, the first and last of them named."""
    steps = sorted(x.by_step.keys() & y.by_step.keys())
    if len(steps) < 2:
        return
    xs, ys = x.path(steps), y.path(steps)
    style = {"color": BLUE, "marker": "o", "markersize": 4, "linewidth": 1.2}
    axes.plot(xs, ys, label="dev items, by step", **style)
    # Above the line: to its left where it rises, to its right where it falls.
    text = {
        "textcoords": "offset points",
        "color": BLUE,
        "fontsize": 8,
        "va": "bottom",
        "zorder": 6,
    }
    for i in sorted({1, len(steps) - 1}):
        rises = ys[i] >= ys[i - 1]
        offset, side = ((-7, 5), "right") if rises else ((7, 5), "left")
        axes.annotate(f"step {steps[i]}", (xs[i], ys[i]), offset, ha=side, **text)


def _axes(report: Report, dev: Mapping[str, Mapping[int, float]]) -> tuple[Axis, Axis] | None:
    """The two answers, or the first ones of which there are dev scores, where both have some."""
    sides: tuple[tuple[str, Section, int], ...] = (
        ("learned", "learning", 1),
        ("forgotten", "forgetting", -1),
    )
    answers, followed = [], []
    for question, section, sign in sides:
        rows = report.answers(section)
        if not rows:
            return None
        candidates = [
            Axis(question, row, sign if row.higher_is_better else -sign, _of(dev, row))
            for row in rows
        ]
        answers.append(candidates[0])
        followed += [axis for axis in candidates if len(axis.by_step) > 1][:1]
    x, y = followed if len(followed) == len(sides) else answers
    return x, y


def _of(dev: Mapping[str, Mapping[int, float]], row: Row) -> Mapping[int, float]:
    """A row's dev scores, if they begin with the base's."""
    by_step = dev.get(f"dev/{row.task}/{row.metric}", {})
    return by_step if 0 in by_step else {}


def _dev_scores(folder: Path) -> dict[str, dict[int, float]]:
    """{name: {step: score}} of metrics.jsonl's finite dev scores."""
    found: dict[str, dict[int, float]] = {}
    for record in files.read_jsonl(folder / METRICS_FILE):
        for name, value in record.items():
            if name.startswith("dev/") and value is not None:
                found.setdefault(name, {})[record["step"]] = value
    return found
