"""Directions that two ranks, two seeds or two methods share (LoRA paper, figures 3 and 4)."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lfl_jax.report.study.figures.style import INK, Figure, draw_legend, looks
from lfl_jax.report.study.tables import Table
from lfl_jax.studies import directions
from lfl_jax.studies.directions import FACTOR, INPUTS, OTHER, SAME, Directions, Overlap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# More panels than a page, or a paper's column, has room for are in the data alone.
PANELS = {True: 7, False: 3}


@dataclass(frozen=True)
class Comparison:
    """What one row of panels is of: two arms, pairs of runs, and the space of the directions."""

    first: str
    second: str
    seeds: str
    space: str

    @property
    def label(self) -> str:
        """As a legend names it."""
        of = f"{self.first}, two seeds" if self.first == self.second else self._of_two
        return f"{of}, {'A' if self.space == FACTOR else 'inputs of dW'}"

    @property
    def _of_two(self) -> str:
        return f"{self.first} and {self.second}"


def draw(compared: Directions) -> Iterator[Figure]:
    """Heat maps of the two ranks and of two seeds, and every comparison along k."""
    chosen = _comparisons(compared)
    if not chosen:
        return
    heat = _heat_table(compared, chosen)
    # As published: of the factor A. A study without two ranks has other comparisons.
    main = [one for one in chosen if one.space == FACTOR][:2] or chosen[:2]
    yield Figure(
        "subspaces",
        "Directions that ranks and seeds share",
        "||U_i^T V_j||_F^2 / min(i, j): how much of the first i directions of one run (down) lies"
        " in the first j of the other (across), the mean over layers and pairs of runs: "
        f"{'; '.join(one.label for one in main)}. Last row: random directions, the null.",
        heat,
        functools.partial(_paint_heat, compared, main),
        (1.6 * (len(main) + 1), 3.4),
    )
    yield Figure(
        "subspaces_along",
        "Similarity of the first k directions",
        "phi(k, k) over all weights, with its 95 % interval over seeds. Dashed: random directions"
        " in a space of the inputs' size.",
        heat,
        functools.partial(_paint_along, compared, chosen),
    )


def _comparisons(compared: Directions) -> list[Comparison]:
    """Two ranks, then two seeds of each arm, then LoRA with other arms; as far as there are."""
    many, loras = len(compared.seeds) > 1, list(compared.ranks)
    pairs = []
    if len(loras) > 1:
        extremes = (loras[0], loras[-1], SAME)
        pairs += [Comparison(*extremes, FACTOR), Comparison(*extremes, INPUTS)]
    if many:
        pairs += [Comparison(arm, arm, OTHER, FACTOR) for arm in loras[-1:]]
        pairs += [Comparison(arm, arm, OTHER, INPUTS) for arm in (*loras[-1:], *compared.others)]
    for other in compared.others:
        pairs += [Comparison(arm, other, SAME, INPUTS) for arm in loras[-1:]]
    return [one for one in pairs if _overlaps(compared, one)]


def _overlaps(compared: Directions, one: Comparison, module: str = "") -> list[Overlap]:
    return compared.of(one.first, one.second, one.space, module)


def _heat_table(compared: Directions, chosen: Sequence[Comparison]) -> Table:
    """phi(i, j) of everything that is drawn, by module."""
    rows = []
    for one in chosen:
        for module in compared.modules:
            overlaps = _overlaps(compared, one, module)
            if overlaps:
                head = (one.first, one.second, one.seeds, one.space, module)
                cells = zip(
                    np.ndindex(*overlaps[0].values.shape[2:]),
                    _mean(overlaps, one.seeds).ravel(),
                    _random(overlaps).ravel(),
                    strict=True,
                )
                rows += [(*head, i + 1, j + 1, float(x), float(r)) for (i, j), x, r in cells]
    return Table(
        "subspaces",
        "phi(i, j), the mean over layers and pairs of runs, and that of random directions.",
        ("first", "second", "seeds", "space", "module", "i", "j", "similarity", "random"),
        tuple(rows),
    )


def _mean(overlaps: Sequence[Overlap], seeds: str) -> Float[np.ndarray, "I J"]:
    """Over layers and pairs of the same seed, or of other seeds."""
    values = np.mean([one.values for one in overlaps], axis=0)
    is_same = np.eye(len(values), dtype=bool)
    return values[is_same if seeds == SAME else ~is_same].mean(axis=0)


def _random(overlaps: Sequence[Overlap]) -> Float[np.ndarray, "I J"]:
    """E ||U^T V||^2 = i j / N, over min(i, j), as in `subspaces.random_similarity`."""
    i, j = (np.arange(1, count + 1) for count in overlaps[0].values.shape[2:])
    return np.mean([np.maximum.outer(i, j) / one.size for one in overlaps], axis=0)


def _paint_heat(compared: Directions, chosen: Sequence[Comparison], canvas: "Canvas") -> None:
    modules = compared.modules[: PANELS[canvas.get_figwidth() > 5]]
    grid = canvas.subplots(len(chosen) + 1, len(modules), squeeze=False)
    for column, module in zip(grid.T, modules, strict=True):
        # The last row is the null.
        for axes, one in zip(column, chosen, strict=False):
            overlaps = _overlaps(compared, one, module)
            if overlaps:
                image = _draw(axes, _mean(overlaps, one.seeds))
                null = _random(overlaps)
        _draw(column[-1], null)
        column[0].set_title(module, fontsize=8, loc="left")
    for axes, label in zip(grid[:, 0], (*map(_short, chosen), "random"), strict=True):
        axes.set_ylabel(label, fontsize=7)
    bar = canvas.colorbar(image, ax=list(grid.ravel()), fraction=0.03)
    bar.ax.tick_params(labelsize=7, color=INK)
    bar.outline.set_edgecolor(INK)


def _short(one: Comparison) -> str:
    return "two seeds" if one.first == one.second else f"{one.first},\n{one.second}"


def _draw(axes: "Axes", values: Float[np.ndarray, "I J"]) -> "object":
    extent = (0.5, values.shape[1] + 0.5, values.shape[0] + 0.5, 0.5)
    image = axes.imshow(
        values, vmin=0, vmax=1, cmap="viridis", extent=extent, aspect="auto", origin="upper"
    )
    axes.tick_params(labelsize=6)
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True, nbins=4)
    return image


def _paint_along(compared: Directions, chosen: Sequence[Comparison], canvas: "Canvas") -> None:
    axes = canvas.subplots()
    for one, look in zip(chosen, looks([one.label for one in chosen]).values(), strict=True):
        overlaps = _overlaps(compared, one)
        ks = range(1, min(overlaps[0].values.shape[2:]) + 1)
        phis = [directions.similarity(overlaps, k, k, one.seeds) for k in ks]
        means = np.array([x.effect.mean for x in phis])
        # NaN of a single seed, of which no band is drawn.
        low, high = np.array([x.effect.interval() for x in phis]).T
        axes.plot(ks, means, look.marker + "-", color=look.colour, label=one.label, ms=4, lw=1)
        axes.fill_between(ks, low, high, color=look.colour, alpha=0.15, lw=0)
        axes.plot(ks, [x.random for x in phis], "--", color=INK, lw=1)
    axes.plot([], [], "--", color=INK, lw=1, label="random")
    axes.set(xlabel="k, first directions", ylabel="phi(k, k)", ylim=(0, 1.02))
    axes.xaxis.get_major_locator().set_params(integer=True)
    draw_legend(canvas, axes)
