"""Figures of a run: pass@k, and learning against forgetting. They need the extra `plots`."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lfl_jax.core import files
from lfl_jax.evals.metrics import Section
from lfl_jax.evals.run import Result
from lfl_jax.evals.stats import Estimate
from lfl_jax.io.metrics import METRICS_FILE
from lfl_jax.report.rows import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = dict[int, Estimate]  # pass@k by k
Variants = Mapping[str, Mapping[str, Result]]  # {"base" or "tuned": {task: result}}
DevScores = Mapping[int, float]  # a metric on the dev items by training step
SHADE = 0.18  # opacity of an interval's band
# Okabe and Ito's colours, which readers with any colour vision tell apart; lines differ by marker
# and dashes as well.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"
STYLES = (
    {"color": GREY, "marker": "s", "linestyle": "--"},
    {"color": BLUE, "marker": "o", "linestyle": "-"},
)


def draw(report: Report, variants: Variants, folder: Path) -> list[Path]:
    """Draw the figures that have data; prints a line where matplotlib is not installed."""
    if not importlib.util.find_spec("matplotlib"):
        text = "no figures: matplotlib is not installed (pip install 'lfl_jax[plots]')"
        print(text)  # noqa: T201
        return []
    paths = (pass_at_k(variants, folder), learning_forgetting(report, folder))
    return [path for path in paths if path is not None]


def pass_at_k(variants: Variants, folder: Path) -> Path | None:
    """pass_at_k.png: pass@k of every coding task, a line per variant with its 95 % interval.

    None where no task has more than one sample of a problem, or matplotlib is not installed.
    """
    labels: dict[str, str] = {}
    for results in variants.values():
        for task, result in results.items():
            if len(curve(result)) > 1:
                labels[task] = result.label
    if not labels or not importlib.util.find_spec("matplotlib"):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(labels), 3.4), layout="constrained")
    subplots = figure.subplots(1, len(labels), squeeze=False)[0]
    for axes, (task, label) in zip(subplots, labels.items(), strict=True):
        curves = {}
        for variant, results in variants.items():
            curves[variant] = curve(results[task]) if task in results else {}
        _draw_curves(axes, curves, label)
    return _saved(figure, folder / "pass_at_k.png")


def curve(result: Result) -> Curve:
    """{k: pass@k} of a result, in the order of k; empty for a task without pass@k."""
    points = {}
    for name, estimate in result.metrics.items():
        if name.startswith("pass@"):
            points[int(name.removeprefix("pass@"))] = estimate
    return dict(sorted(points.items()))


def _draw_curves(axes: "Axes", curves: Mapping[str, Curve], title: str) -> None:
    """A task's curves, by variant; k is on a scale of powers of 2."""
    # A single variant has the style of the tuned model.
    for (variant, points), style in zip(curves.items(), STYLES[-len(curves) :], strict=True):
        ks, estimates = list(points), list(points.values())
        axes.plot(ks, [e.mean for e in estimates], markersize=4, label=variant, **style)
        low = [e.low for e in estimates]
        high = [e.high for e in estimates]
        axes.fill_between(ks, low, high, alpha=SHADE, color=style["color"])

    axes.set(title=title, xlabel="k", ylabel="pass@k", ylim=(0, 1))
    axes.set_xscale("log", base=2)
    all_ks = sorted({k for points in curves.values() for k in points})
    axes.set_xticks(all_ks, [str(k) for k in all_ks])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


@dataclass(frozen=True)
class Axis:
    """A row's change as a coordinate, which grows with what was learned, or forgotten.

    sign: -1 where the metric falls as the coordinate grows. dev_scores: empty where the task was
    not evaluated in training; else the base's is at step 0.
    """

    question: str
    row: Row
    sign: int
    dev_scores: DevScores

    @property
    def label(self) -> str:
        """Two lines: the question, and the metric with its direction and unit."""
        direction = "increase" if self.sign > 0 else "decrease"
        unit = " (points)" if self.row.metric.percent else ""
        return f"{self.question}\n{direction} of {self.row.label}{unit}"

    @property
    def change(self) -> tuple[float, list[list[float]]]:
        """The change from base to tuned, and the lengths of its 95 % interval below and above."""
        e, scale = self.row.change, self._scale
        center = scale * e.mean
        low, high = sorted((scale * e.low, scale * e.high))
        # A single cluster has no interval.
        lengths = [0.0 if math.isnan(x) else max(x, 0.0) for x in (center - low, high - center)]
        return center, [[length] for length in lengths]

    def path(self, steps: Sequence[int]) -> list[float]:
        """The change since the base on the dev items, at these steps."""
        return [self._scale * (self.dev_scores[step] - self.dev_scores[0]) for step in steps]

    @property
    def _scale(self) -> float:
        return self.sign * (100.0 if self.row.metric.percent else 1.0)


def learning_forgetting(report: Report, folder: Path) -> Path | None:
    """learning_forgetting.png: what was learned to the right, what was forgotten upwards.

    The base is the origin, and the tuned model has its 95 % intervals. The way between them is
    drawn where metrics.jsonl has dev scores of both (config.eval.every and every_tasks). None where
    nothing was learned or forgotten, or matplotlib is not installed.
    """
    axis_pair = _axes(report, _dev_scores(folder))
    if axis_pair is None or not importlib.util.find_spec("matplotlib"):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    _draw_path(axes, *axis_pair)
    _draw_ends(axes, *axis_pair)
    axes.margins(0.15)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside upper left", frameon=False, ncols=3)
    return _saved(figure, folder / "learning_forgetting.png")


def _draw_ends(axes: "Axes", x: Axis, y: Axis) -> None:
    """The base, the tuned model with its intervals, and the labels of both axes."""
    axes.plot(
        0, 0, marker="s", markersize=8, color="black", linestyle="none", label="base", zorder=4
    )
    (x_center, x_lengths), (y_center, y_lengths) = x.change, y.change
    axes.errorbar(
        x_center,
        y_center,
        xerr=x_lengths,
        yerr=y_lengths,
        fmt="D",
        label="tuned, 95% intervals",
        capsize=4,
        markersize=9,
        color=ORANGE,
        linestyle="none",
        zorder=5,
    )
    axes.set(xlabel=x.label, ylabel=y.label)


def _draw_path(axes: "Axes", x: Axis, y: Axis) -> None:
    """The dev scores by step; the first and the last step are named."""
    steps = sorted(x.dev_scores.keys() & y.dev_scores.keys())
    if len(steps) < 2:
        return
    xs, ys = x.path(steps), y.path(steps)
    style = {"color": BLUE, "marker": "o", "markersize": 4, "linewidth": 1.2}
    axes.plot(xs, ys, label="dev items, by step", **style)

    font = {"color": BLUE, "fontsize": 8, "va": "bottom", "zorder": 6}
    for i in sorted({1, len(steps) - 1}):
        # Beside the line: to its left where it rises, to its right where it falls.
        offset, align = ((-7, 5), "right") if ys[i] >= ys[i - 1] else ((7, 5), "left")
        axes.annotate(
            f"step {steps[i]}",
            (xs[i], ys[i]),
            offset,
            textcoords="offset points",
            ha=align,
            **font,
        )


def _axes(report: Report, dev: Mapping[str, DevScores]) -> tuple[Axis, Axis] | None:
    """The axes of what was learned and what was forgotten, by the answers of the report.

    Where both sections have rows with dev scores, the first such rows are taken instead.
    """
    learned = _candidates(report, "learned", "learning", 1, dev)
    forgotten = _candidates(report, "forgotten", "forgetting", -1, dev)
    if not learned or not forgotten:
        return None
    x = next(filter(_has_path, learned), None)
    y = next(filter(_has_path, forgotten), None)
    return (x, y) if x and y else (learned[0], forgotten[0])


def _candidates(
    report: Report, question: str, section: Section, sign: int, dev: Mapping[str, DevScores]
) -> list[Axis]:
    """sign: 1 where better is further out, -1 where worse is."""
    axes = []
    for row in report.answers(section):
        scores = dev.get(f"dev/{row.task}/{row.metric.name}", {})
        # Changes are since the base, which a run of an older version did not evaluate.
        from_base = scores if 0 in scores else {}
        axes.append(Axis(question, row, sign if row.metric.higher_is_better else -sign, from_base))
    return axes


def _has_path(axis: Axis) -> bool:
    return len(axis.dev_scores) > 1


def _dev_scores(folder: Path) -> dict[str, DevScores]:
    """{name: {step: score}} of the finite dev scores in metrics.jsonl."""
    scores: dict[str, dict[int, float]] = {}
    file = folder / METRICS_FILE
    for record in files.read_jsonl(file):
        with files.expecting(file, "numbers of steps"):
            for name, value in record.items():
                if name.startswith("dev/") and value is not None:
                    step = int(files.number(record["step"]))
                    scores.setdefault(name, {})[step] = files.number(value)
    return scores


def _saved(figure: "Figure", path: Path) -> Path:
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=150, format="png")
    return path
