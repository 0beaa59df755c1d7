"""Whether one method forgets less than another when both have learned as much.

An arm is a method with its grid of learning rates and durations. Its frontier is the cells that no
other cell of the arm beats on both axes, joined by straight lines. The contrast of two arms is the
vertical gap between their frontiers, averaged over the learning that both reach. Nothing is
extrapolated. The same gap over the divergence from the base is the contrast at matched divergence,
which needs arms whose forgetting rises with it.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import LEVEL, Effect, Part, over_seeds_and_items

Matched = Literal["learning", "divergence"]

# Of an arm's cells, inside the range that both arms reach.
FEWEST_CELLS = 2


@dataclass(frozen=True)
class Axis:
    """A measure of every run of an arm: values (S, P, I) by seed, cell and item.

    A run's loss or divergence that is not scored by item has I = 1. clusters: of the items; the
    same items under all seeds, cells and arms.
    """

    values: Float[np.ndarray, "S P I"]
    clusters: Sequence[Hashable] | None = None

    def means(self) -> Float[np.ndarray, " P"]:
        """Over seeds and items."""
        return self.values.mean(axis=(0, 2))

    def by_run(self) -> Float[np.ndarray, "S P"]:
        """Every run's mean over items."""
        return self.values.mean(axis=2)

    def part(self, cell: int) -> Part:
        """One cell's values by seed and item."""
        return Part(self.values[:, cell], self.clusters)


def log_means(axis: Axis) -> Axis:
    """Each run's logarithm of its mean over items, plus what each item adds to it.

    The log of a mean is no mean over items: it is linearised, so that their plain mean is the log.
    UserError for a mean that is not positive.
    """
    means = axis.values.mean(axis=2, keepdims=True)
    if not np.all(means > 0):
        raise UserError("a divergence of 0 has no logarithm: leave out identity and untrained arms")
    return Axis(np.log(means) + (axis.values - means) / means, axis.clusters)


@dataclass(frozen=True)
class Arm:
    """A method's runs. x: what is matched (learning: more is better; or a divergence).

    y: what is compared (forgetting: less is better).
    """

    name: str
    x: Axis
    y: Axis


@dataclass(frozen=True)
class Curve:
    """Corners joined by straight lines, in the order of x."""

    x: Float[np.ndarray, " K"]
    y: Float[np.ndarray, " K"]


@dataclass(frozen=True)
class Gap:
    """first's y less second's at the same x: positive where the first forgets more.

    low, high: the range of x that both reach. cells: those of each arm on its curve.
    """

    effect: Effect
    low: float
    high: float
    cells: tuple[Int[np.ndarray, " K"], Int[np.ndarray, " N"]]


def pareto(
    learning: Float[np.ndarray, " P"], forgetting: Float[np.ndarray, " P"]
) -> Int[np.ndarray, " K"]:
    """The cells that no other beats: more learned and no more forgotten, or the reverse.

    In the order of learning, so that forgetting rises along them.
    """
    # Of two that learned alike, the one that forgot less comes first.
    order = np.lexsort((forgetting, -learning))
    least, efficient = np.inf, []
    # From the most learned down: a cell stays if it forgets less than all that learned more.
    for cell in order:
        if forgetting[cell] < least:
            least = forgetting[cell]
            efficient.append(int(cell))
    return np.array(efficient[::-1])


def frontier_cells(
    learning: Float[np.ndarray, " P"], forgetting: Float[np.ndarray, " P"]
) -> Int[np.ndarray, " K"]:
    """`pareto`; all cells, in the order of learning, of an arm that forgets alike at all of them.

    A prompted base forgets nothing: its curve is a level line, and not its best cell alone.
    """
    is_level = np.ptp(forgetting) == 0
    return np.argsort(learning, kind="stable") if is_level else pareto(learning, forgetting)


def gap(first: Arm, second: Arm, *, matched: Matched = "learning") -> Gap:
    """The vertical gap between two arms' curves, with its error over seeds and items.

    matched: "learning" compares the arms' frontiers; "divergence" compares all of their cells in
    the order of x. The error is the delta method's: the gap is a function of the cells' means, and
    its derivative says how much each run and item adds to it. Raises UserError where the arms share
    no range of x, fewer than two cells of an arm lie inside it, or forgetting does not rise with
    the divergence.
    """
    if matched == "divergence":
        for arm in (first, second):
            _require_rising(arm)
    select = {"learning": frontier_cells, "divergence": _by_x}[matched]
    cells = tuple(select(arm.x.means(), arm.y.means()) for arm in (first, second))
    curves = [
        Curve(arm.x.means()[chosen], arm.y.means()[chosen])
        for arm, chosen in zip((first, second), cells, strict=True)
    ]
    low, high = _require_overlap(first, second, *curves)

    value = mean_gap(*curves)
    slopes = _slopes(*curves)
    parts = [
        Part(_weighed(first.x, second.x, cells, (slopes[0].x, slopes[1].x)), first.x.clusters),
        Part(_weighed(first.y, second.y, cells, (slopes[0].y, slopes[1].y)), first.y.clusters),
    ]
    error = over_seeds_and_items(*parts)
    return Gap(dataclasses.replace(error, mean=value), low, high, cells)


def mean_gap(first: Curve, second: Curve) -> float:
    """first's height less second's, averaged over the x that both reach."""
    low, high = _range(first, second)
    # Between neighbouring corners of either curve both are straight: the trapezoid rule is exact.
    corners = np.concatenate([[low, high], first.x, second.x])
    corners = np.unique(np.clip(corners, low, high))
    difference = np.interp(corners, first.x, first.y) - np.interp(corners, second.x, second.y)
    return float(np.trapezoid(difference, corners) / (high - low))


def _range(first: Curve, second: Curve) -> tuple[float, float]:
    return max(first.x[0], second.x[0]), min(first.x[-1], second.x[-1])


def _require_rising(arm: Arm) -> None:
    """UserError where a cell diverged less than another and forgot more, beyond its noise.

    An arm that folds back has several amounts forgotten at one divergence: those of its curve would
    be whichever its cells happen to be sorted to.
    """
    order = _by_x(arm.x.means(), arm.y.means())
    pairs = list(itertools.combinations(order, 2))
    for nearer, farther in pairs:
        more = over_seeds_and_items(
            Part(arm.y.values[:, nearer] - arm.y.values[:, farther], arm.y.clusters)
        )
        # Of as many pairs some differ by chance (Bonferroni).
        low, _ = more.interval(1 - 2 * (1 - LEVEL) / len(pairs))
        if low > 0:
            x, y = arm.x.means(), arm.y.means()
            raise UserError(
                f"{arm.name}: its cell with the divergence {x[nearer]:.3g} forgot {y[nearer]:.3g},"
                f" that with {x[farther]:.3g} only {y[farther]:.3g}: where forgetting does not rise"
                " with the divergence, an equal divergence says nothing"
            )


def _by_x(x: Float[np.ndarray, " P"], y: Float[np.ndarray, " P"]) -> Int[np.ndarray, " P"]:
    return np.argsort(x, kind="stable")


def _require_overlap(
    first: Arm, second: Arm, first_curve: Curve, second_curve: Curve
) -> tuple[float, float]:
    low, high = _range(first_curve, second_curve)
    if not low < high:
        raise UserError(
            f"{first.name} and {second.name} share no range: {_reach(first_curve)} against"
            f" {_reach(second_curve)}; extend the learning rates of one"
        )
    for arm, curve in ((first, first_curve), (second, second_curve)):
        inside = int(np.sum((curve.x >= low) & (curve.x <= high)))
        if inside < FEWEST_CELLS:
            raise UserError(
                f"{arm.name}: {inside} cell of its curve lies in the range of both,"
                f" {low:.4g} to {high:.4g}; expected at least {FEWEST_CELLS}: add learning rates"
            )
    return low, high


def _reach(curve: Curve) -> str:
    return f"{curve.x[0]:.4g} to {curve.x[-1]:.4g}"


def _slopes(first: Curve, second: Curve) -> tuple[Curve, Curve]:
    """The derivative of `mean_gap` by each corner of both curves."""
    # One vector of all coordinates, so that each can be moved alone.
    flat = np.concatenate([first.x, first.y, second.x, second.y])
    cuts = np.cumsum([len(first.x), len(first.y), len(second.x)])

    def at(values: Float[np.ndarray, " N"]) -> float:
        x1, y1, x2, y2 = np.split(values, cuts)
        return mean_gap(Curve(x1, y1), Curve(x2, y2))

    # The gap is piecewise smooth. The step is far below the distance of two corners, and far above
    # the rounding of float64.
    step = 1e-6 * max(float(np.ptp(np.concatenate([first.x, second.x]))), 1e-12)
    slopes = np.zeros_like(flat)
    for index in range(len(flat)):
        shift = np.zeros_like(flat)
        shift[index] = step
        slopes[index] = (at(flat + shift) - at(flat - shift)) / (2 * step)
    x1, y1, x2, y2 = np.split(slopes, cuts)
    return Curve(x1, y1), Curve(x2, y2)


def _weighed(
    first: Axis,
    second: Axis,
    cells: tuple[Int[np.ndarray, " K"], Int[np.ndarray, " N"]],
    slopes: tuple[Float[np.ndarray, " K"], Float[np.ndarray, " N"]],
) -> Float[np.ndarray, "S I"]:
    """What every run and item adds to the gap, through one axis."""
    of_first = np.einsum("k,ski->si", slopes[0], first.values[:, cells[0]])
    of_second = np.einsum("k,ski->si", slopes[1], second.values[:, cells[1]])
    return of_first + of_second
