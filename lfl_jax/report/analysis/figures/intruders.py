"""Intruder dimensions by layer, with epsilon swept and the floor that random directions have."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from lfl_jax.report.analysis import tables
from lfl_jax.report.analysis.figures.panels import sequence
from lfl_jax.report.analysis.measured import Analysis, Weight
from lfl_jax.report.study.figures.style import COLOURS, INK, Figure, draw_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

EPSILONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PUBLISHED = 0.5


def intruders(analysis: Analysis) -> Figure | None:
    """None where W was not decomposed."""
    weights = [weight for weight in analysis.last if weight.cosines is not None]
    if not weights:
        return None
    return Figure(
        "intruders",
        "Intruder dimensions",
        "Left: of the ten largest directions of each W + dW, those whose cosine to every direction"
        " of W is below epsilon, summed over the modules of a layer; the published count is that of"
        " .5. Right: the share of them over epsilon. Grey: where random directions have their"
        " median, by module: an epsilon below it counts nothing, whatever changed. Dashed: a change"
        " with dW's singular values in random directions.",
        tables.intruders(analysis, EPSILONS),
        functools.partial(_paint, weights),
        (3.2, 4.6),
    )


def _paint(weights: list[Weight], canvas: "Canvas") -> None:
    is_wide = canvas.get_figwidth() > 5
    by_layer, by_epsilon = canvas.subplots(1, 2) if is_wide else canvas.subplots(2, 1)
    layers = sorted({weight.layer for weight in weights})
    for epsilon, colour in zip(EPSILONS, sequence(len(EPSILONS)), strict=True):
        counts = [_count(weights, layer, epsilon) for layer in layers]
        # The published one stands out.
        width = 2.2 if epsilon == PUBLISHED else 1.0
        style = {"color": colour, "lw": width, "marker": "o", "ms": 3}
        by_layer.plot(layers, counts, label=f"ε = {epsilon:g}", **style)
    by_layer.set(xlabel="layer", ylabel="intruders")
    by_layer.xaxis.get_major_locator().set_params(integer=True)
    _draw_shares(by_epsilon, weights)
    draw_legend(canvas, by_layer)


def _count(weights: list[Weight], layer: int, epsilon: float) -> int:
    """Over the modules of a layer."""
    cosines = [weight.cosines for weight in weights if weight.layer == layer]
    return int(np.sum(np.concatenate(cosines) < epsilon))


def _draw_shares(axes: "Axes", weights: list[Weight]) -> None:
    cosines = np.sort(np.concatenate([weight.cosines for weight in weights]))
    # The shares are steps: so many points show each of them.
    grid = np.linspace(0, 1, 201)
    axes.plot(grid, np.searchsorted(cosines, grid) / len(cosines), color=COLOURS[0], lw=1.6)
    random = [weight.random_cosines for weight in weights]
    if all(one is not None for one in random):
        of_random = np.sort(np.concatenate(random))
        share = np.searchsorted(of_random, grid) / len(of_random)
        axes.plot(grid, share, color=INK, ls="--", lw=1.1)
    floors = [weight.values["cosine_floor"] for weight in weights]
    axes.axvspan(min(floors), max(floors), color=INK, alpha=0.3, lw=1)
    axes.axvline(PUBLISHED, color=INK, lw=0.8)
    axes.set(xlabel="ε", ylabel="share that are intruders", xlim=(0, 1), ylim=(-0.02, 1.02))
