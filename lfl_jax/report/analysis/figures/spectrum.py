"""The singular values of dW, a panel for each module, beside a random change's."""

import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lfl_jax.report.analysis import tables
from lfl_jax.report.analysis.figures.panels import FLOOR, NULL, SIGNS, label, panels
from lfl_jax.report.analysis.measured import Analysis, Weight
from lfl_jax.report.study.figures.style import COLOURS, INK, Figure, draw_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Of the largest value drawn: what is smaller is rounding.
LEAST = 1e-5
# the weight's field -> its label, and how it is drawn
BESIDE = {"one_step_s": ("signs of dW", SIGNS), "rounding_s": ("rounding alone", FLOOR)}


def spectrum(analysis: Analysis) -> Figure | None:
    """Of the last checkpoint; the layers' median, and the band from the least to the largest."""
    if not analysis.last:
        return None
    rounding = (
        " Dotted: rounding to the stored dtype alone." if _has(analysis, "rounding_s") else ""
    )
    signs = " Dash-dotted: the signs of dW." if _has(analysis, "one_step_s") else ""
    return Figure(
        "spectrum",
        "Spectrum of the change",
        "Singular values of dW over its Frobenius norm, by falling size: the median over layers,"
        " and the band from the least to the largest layer. Dashed: a random change of the same"
        f" shape, rank and norm.{signs}{rounding}",
        tables.spectra(analysis),
        functools.partial(_paint, analysis),
        (4.2, 6.0),
    )


def _has(analysis: Analysis, name: str) -> bool:
    return any(getattr(weight, name) is not None for weight in analysis.last)


def _paint(analysis: Analysis, canvas: "Canvas") -> None:
    drawn = panels(canvas, analysis.modules, share_y=True)
    for axes, module in zip(drawn, analysis.modules, strict=True):
        _draw_module(axes, [weight for weight in analysis.last if weight.module == module])
    label(canvas, drawn, "index", "singular value / ||dW||")
    draw_legend(canvas, drawn[0])


def _draw_module(axes: "Axes", weights: list[Weight]) -> None:
    if not weights:
        return
    values = _over_norm([weight.s for weight in weights], weights)
    random = _over_norm([weight.random_s for weight in weights], weights)
    _draw_band(axes, values)
    _draw_line(axes, random, {"color": INK, "label": "random", **NULL})
    for name, (beside, style) in BESIDE.items():
        spectra = [getattr(weight, name) for weight in weights]
        if all(spectrum is not None for spectrum in spectra):
            _draw_line(axes, _over_norm(spectra, weights), {"color": INK, "label": beside, **style})
    axes.set(xscale="log", yscale="log")
    # A rank's end is a cliff to the rounding errors of zeros: the axis stops on its way.
    top = max(float(values.max()), float(random.max()))
    axes.set_ylim(max(LEAST * top, 0.5 * float(values[values > 0].min())), 2 * top)


def _over_norm(spectra: list, weights: list) -> Float[np.ndarray, "L N"]:
    """Spectra of all layers, as long as the longest; what a shorter one lacks is 0."""
    longest = max(map(len, spectra))
    rows = [
        np.pad(s, (0, longest - len(s))) / weight.values["frobenius"]
        for s, weight in zip(spectra, weights, strict=True)
    ]
    return np.array(rows)


def _draw_band(axes: "Axes", values: Float[np.ndarray, "L N"]) -> None:
    index = np.arange(1, values.shape[1] + 1)
    low, high = values.min(axis=0), values.max(axis=0)
    axes.fill_between(index, low, high, color=COLOURS[0], alpha=0.2, lw=0)
    _draw_line(axes, values, {"color": COLOURS[0], "lw": 1.4, "label": "dW"})


def _draw_line(axes: "Axes", values: Float[np.ndarray, "L N"], style: dict) -> None:
    median = np.median(values, axis=0)
    # Zeros have no place on a logarithmic axis.
    positive = median > 0
    axes.plot(np.arange(1, len(median) + 1)[positive], median[positive], **style)
