"""Each method's best learning rate by learning, and the ratio of two methods' best ones."""

from collections.abc import Mapping
from dataclasses import dataclass

from lfl_jax.errors import UserError
from lfl_jax.statistics import learning_rates
from lfl_jax.statistics.effects import Effect, in_words
from lfl_jax.statistics.frontier import Axis
from lfl_jax.statistics.learning_rates import Optimum, Sweep
from lfl_jax.studies.arms import Grid


@dataclass(frozen=True)
class BestRate:
    """A method's best learning rate, at its longest length; or why it is not known."""

    method: str
    optimum: Optimum | None
    reason: str = ""


@dataclass(frozen=True)
class RateRatio:
    """The first method's best rate over the second's, paired by seed; or why it is not known."""

    first: str
    second: str
    log10: Effect | None
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """Of the rates; None where it is not known."""
        return None if self.log10 is None else float(10**self.log10.mean)

    def interval(self) -> tuple[float | None, float | None]:
        """95 %, of the ratio."""
        if self.log10 is None:
            return None, None
        low, high = self.log10.interval()
        return 10**low, 10**high

    def __str__(self) -> str:
        if self.log10 is None:
            return self.reason
        return in_words(self.ratio, self.interval(), ".3g")


def best_rate(method: str, grid: Grid) -> BestRate:
    """By a parabola in the log of the rate; a UserError of the sweep is the reason."""
    if grid.is_derived:
        return BestRate(method, None, f"{method} alters finished runs, whose rates are not its own")
    try:
        return BestRate(method, learning_rates.optimum(_sweep(method, grid)))
    except UserError as error:
        return BestRate(method, None, str(error))


def rate_ratio(first: str, second: str, grids: Mapping[str, Grid]) -> RateRatio:
    """Of two methods; what is wrong with either's sweep is the reason."""
    derived = [method for method in (first, second) if grids[method].is_derived]
    if derived:
        return RateRatio(first, second, None, best_rate(derived[0], grids[derived[0]]).reason)
    try:
        effect = learning_rates.ratio(_sweep(first, grids[first]), _sweep(second, grids[second]))
    except UserError as error:
        return RateRatio(first, second, None, str(error))
    return RateRatio(first, second, effect)


def _sweep(method: str, grid: Grid) -> Sweep:
    # Optima move with the length of a run: those of several lengths are not mixed.
    cells, learned = grid.of_length(grid.longest), grid.arm.x
    return method, grid.rates[cells], Axis(learned.values[:, cells], learned.clusters)
