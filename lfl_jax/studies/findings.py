"""What a study says: each contrast's verdict, each method's best learning rate, the noise.

Nothing here is a number without its error, and a question that the runs cannot answer is answered
by the reason.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lfl_jax.errors import UserError
from lfl_jax.statistics import learning_rates, noise
from lfl_jax.statistics.frontier import Axis
from lfl_jax.statistics.learning_rates import Optimum
from lfl_jax.studies.answers import Answer, Question, answer
from lfl_jax.studies.arms import Grid, grids
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Run


@dataclass(frozen=True)
class BestRate:
    """A method's best learning rate by learning, at its longest length; or why it is not known."""

    method: str
    optimum: Optimum | None
    reason: str = ""


@dataclass(frozen=True)
class Findings:
    """All that a report shows.

    noise: {method: (of learning, of forgetting)}, one run's standard deviation over seeds.
    """

    question: Question
    seeds: tuple[int, ...]
    grids: Mapping[str, Grid]
    answers: tuple[Answer, ...]
    best_rates: tuple[BestRate, ...]
    noise: Mapping[str, tuple[float, float]]

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
    return Findings(question, seeds, by_method, answers, best_rates, floors)


def _best_rate(method: str, grid: Grid) -> BestRate:
    if any(cell.scale != 1 for cell in grid.cells):
        return BestRate(method, None, f"{method} scales finished runs, whose rates are not its own")
    # Optima move with the length of a run: those of several lengths are not mixed.
    longest = max(cell.step for cell in grid.cells)
    chosen = [index for index, cell in enumerate(grid.cells) if cell.step == longest]
    rates = np.array([grid.cells[index].lr for index in chosen])
    scores = grid.arm.x.values[:, chosen].mean(axis=2)
    try:
        return BestRate(method, learning_rates.optimum(method, rates, scores))
    except UserError as error:
        return BestRate(method, None, str(error))


def _noise(grid: Grid) -> tuple[float, float]:
    return _floor(grid.arm.x), _floor(grid.arm.y)


def _floor(axis: Axis) -> float:
    means = axis.values.mean(axis=2)
    return noise.floor(means) if len(means) > 1 else float("nan")
