"""What a study says: each contrast's verdict, each method's best learning rate, the noise.

Nothing here is a number without its error, and a question that the runs cannot answer is answered
by the reason.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lfl_jax.errors import UserError
from lfl_jax.statistics import learning_rates, noise
from lfl_jax.statistics.frontier import Axis
from lfl_jax.statistics.learning_rates import Optimum
from lfl_jax.studies import flips, predictors
from lfl_jax.studies.answers import Answer, Question, answer
from lfl_jax.studies.arms import Grid, grids
from lfl_jax.studies.flips import FlipRates
from lfl_jax.studies.predictors import Predictor
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Run


@dataclass(frozen=True)
class BestRate:
    """A method's best learning rate by learning, at its longest length; or why it is not known."""

    method: str
    optimum: Optimum | None
    reason: str = ""


class Noise(NamedTuple):
    """One run's standard deviation over seeds; NaN for a single seed."""

    learning: float
    forgetting: float


@dataclass(frozen=True)
class Findings:
    """All that a report shows.

    noise: {method: its noise}. base, runs: the scores that everything else comes from.
    """

    question: Question
    seeds: tuple[int, ...]
    grids: Mapping[str, Grid]
    answers: tuple[Answer, ...]
    best_rates: tuple[BestRate, ...]
    noise: Mapping[str, Noise]
    base: Scores
    runs: tuple[Run, ...]

    @functools.cached_property
    def predictors(self) -> dict[str, Predictor]:
        """{name: what it explains of forgetting}."""
        return predictors.explain(self.grids)

    @functools.cached_property
    def flips(self) -> dict[str, dict[str, FlipRates]]:
        """{accuracy: {method: answers that turned}}."""
        return flips.count(self.base, self.runs, self.grids, self.question.measures.forgetting)

    @property
    def noise_floor(self) -> Noise:
        """Of all methods together."""
        squares = np.square(list(self.noise.values()))
        return Noise(*map(float, np.sqrt(squares.mean(axis=0))))

    @property
    def left_out(self) -> list[str]:
        """Cells that do not count, with the reason of each."""
        return list(itertools.chain(*(grid.left_out for grid in self.grids.values())))


def find(base: Scores, runs: Sequence[Run], question: Question) -> Findings:
    """Answer a study's question. UserError for runs that cannot be compared at all."""
    by_method = grids(base, runs, question.measures)
    # All grids have the same seeds, so that any of them tells.
    seeds = next(iter(by_method.values())).seeds
    best_rates = tuple(_best_rate(method, grid) for method, grid in by_method.items())
    floors = {method: _noise(grid) for method, grid in by_method.items()}
    answers = tuple(answer(question, by_method))
    return Findings(question, seeds, by_method, answers, best_rates, floors, base, tuple(runs))


def _best_rate(method: str, grid: Grid) -> BestRate:
    if grid.is_scaled:
        return BestRate(method, None, f"{method} scales finished runs, whose rates are not its own")
    # Optima move with the length of a run: those of several lengths are not mixed.
    chosen = grid.of_length(grid.longest)
    scores = grid.arm.x.values[:, chosen].mean(axis=2)
    try:
        return BestRate(method, learning_rates.optimum(method, grid.rates[chosen], scores))
    except UserError as error:
        return BestRate(method, None, str(error))


def _noise(grid: Grid) -> Noise:
    return Noise(_floor(grid.arm.x), _floor(grid.arm.y))


def _floor(axis: Axis) -> float:
    means = axis.values.mean(axis=2)
    return noise.floor(means) if len(means) > 1 else float("nan")
