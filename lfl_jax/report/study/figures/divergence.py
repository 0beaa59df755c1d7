"""Forgetting over the divergence from the base, and what else would explain it."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from lfl_jax.report.study import tables
from lfl_jax.report.study.figures.style import (
    INK,
    NOISE,
    Figure,
    draw_legend,
    draw_noise_of_forgetting,
    looks,
    use_plain_ticks,
)
from lfl_jax.statistics.effects import in_words
from lfl_jax.studies import predictors
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.predictors import Predictor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def divergence(findings: Findings) -> Figure | None:
    """Every run a point, methods as colours, and one curve for all; None without a divergence."""
    if findings.question.measures.divergence is None:
        return None
    return Figure(
        "divergence",
        "Forgetting and the distance from the base",
        "Every run. Where methods lie on one curve, the distance explains what they forget. Line:"
        " a parabola in the logarithm of the distance, fitted to all runs; R², its share of the"
        " variance, is computed within each seed, with a 95 % interval over seeds. Grey:"
        f" {NOISE}, around no forgetting.",
        tables.divergences(findings),
        functools.partial(_paint_divergence, findings),
    )


def _paint_divergence(findings: Findings, canvas: "Canvas") -> None:
    axes = canvas.subplots()
    far, forgotten = [], []
    for method, look in looks(findings.grids).items():
        grid = findings.grids[method]
        x, y = grid.divergence.by_run(), grid.arm.y.by_run()
        style = {"color": look.colour, "marker": look.marker, "alpha": 0.7, "lw": 0}
        axes.scatter(x, y, s=20, label=method, **style)
        far.append(x.ravel())
        forgotten.append(y.ravel())

    draw_noise_of_forgetting(axes, findings)
    axes.set(xscale="log")
    use_plain_ticks(axes)
    explained = findings.predictors.get(predictors.DIVERGENCE)
    if explained is not None:
        _draw_fit(axes, np.concatenate(far), np.concatenate(forgotten), explained)
    measures = findings.question.measures
    axes.set(
        xlabel=f"{findings.label(measures.divergence)}",
        ylabel=f"forgotten: {findings.label(measures.forgetting)}",
    )
    draw_legend(canvas, axes)


def _draw_fit(axes: "Axes", far: np.ndarray, forgotten: np.ndarray, explained: Predictor) -> None:
    # An untrained arm has no logarithm of its divergence.
    positive = far > 0
    x = np.log(far[positive])
    fitted = np.polynomial.Polynomial.fit(x, forgotten[positive], predictors.DEGREE)
    line = np.linspace(x.min(), x.max(), 100)
    label = f"all, R² {_with_interval(explained)}"
    axes.plot(np.exp(line), fitted(line), color=INK, lw=1.5, zorder=1, label=label)


def explained(findings: Findings) -> Figure | None:
    """The share of forgetting's variance that each predictor explains; None for fewer than two."""
    if len(findings.predictors) < 2:
        return None
    rows = 0.9 + 0.3 * len(findings.predictors)
    return Figure(
        "explained",
        "What explains forgetting",
        "The share of the variance over runs, R², that a parabola in each predictor alone explains,"
        " computed within each seed; for the method alone, its mean. All on the same runs. Bars:"
        " 95 % intervals over seeds. Crosses: what is expected of a predictor that has nothing to"
        " do with forgetting.",
        tables.predictors(findings),
        functools.partial(_paint_explained, findings),
        (rows, rows),
    )


def _paint_explained(findings: Findings, canvas: "Canvas") -> None:
    axes = canvas.subplots()
    ordered = sorted(findings.predictors.items(), key=lambda pair: pair[1].r2.mean)
    for height, (_, predictor) in enumerate(ordered):
        low, high = predictor.interval()
        axes.plot((low, high), (height, height), color=INK, lw=2)
        axes.plot(predictor.r2.mean, height, "o", color=INK, ms=6)
        axes.plot(predictor.null, height, "x", color=INK, ms=6)
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered])
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(ordered) - 0.4), xlabel="R² of forgetting")


def _with_interval(predictor: Predictor) -> str:
    return in_words(predictor.r2.mean, predictor.interval(), ".2f")
