"""Answers that finetuning turned, less those that guessing turns: by method, cell and seed."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.analysis import forgetting
from lfl_jax.errors import UserError
from lfl_jax.evals.stats import Column
from lfl_jax.studies.arms import Grid, Measure
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Cell, Run


@dataclass(frozen=True)
class FlipRates:
    """Shares of a task's items that became incorrect (lost) or correct (gained).

    by_chance: what guessing alone would turn each way (`forgetting.Flips`).
    """

    lost: Float[np.ndarray, "S P"]
    gained: Float[np.ndarray, "S P"]
    by_chance: Float[np.ndarray, "S P"]

    @property
    def forgotten(self) -> Float[np.ndarray, "S P"]:
        """Lost beyond chance, at least 0: F_true of arXiv 2510.17776."""
        return np.maximum(self.lost - self.by_chance, 0.0)

    @property
    def learned(self) -> Float[np.ndarray, "S P"]:
        """Gained beyond chance, likewise."""
        return np.maximum(self.gained - self.by_chance, 0.0)

    def columns(self) -> tuple[Float[np.ndarray, "S P"], ...]:
        """lost, gained, by_chance, forgotten, learned."""
        return self.lost, self.gained, self.by_chance, self.forgotten, self.learned


def count(
    base: Scores, runs: Sequence[Run], by_method: Mapping[str, Grid], declared: Measure
) -> dict[str, dict[str, FlipRates]]:
    """{measure: {method: its rates}} of the accuracies that are evidence of forgetting.

    declared: what the study calls forgetting, which a reader's own records do not mark as such.
    """
    scores = {run.place: run.scores for run in runs}
    by_measure: dict[str, dict[str, FlipRates]] = {}
    for measure in _accuracies(base, declared):
        # The table of every measure says which runs cannot be compared with the base.
        with contextlib.suppress(UserError):
            by_measure[str(measure)] = {
                method: _rates(base, scores, method, grid, measure)
                for method, grid in by_method.items()
            }
    return by_measure


def _accuracies(base: Scores, declared: Measure) -> list[Measure]:
    """The first accuracy of every task that says what was forgotten."""
    measures = []
    for task, metrics in base.tasks.items():
        for name, measured in metrics.items():
            measure = Measure(task, name)
            is_forgetting = measured.metric.section == "forgetting" or measure == declared
            if is_forgetting and _is_binary(measured.column):
                measures.append(measure)
                break
    return measures


def _is_binary(column: Column) -> bool:
    # A mean over tasks has no items of its own: each of its tasks is counted.
    return not column.groups and column.is_right_or_wrong


def _rates(
    base: Scores,
    scores: Mapping[tuple[str, Cell, int], Scores | None],
    method: str,
    grid: Grid,
    measure: Measure,
) -> FlipRates:
    before = measure.of(base)
    items = len(before.column.ids)
    counts = [
        forgetting.flips(before, measure.of(scores[method, cell, seed]))
        for seed in grid.seeds
        for cell in grid.cells
    ]
    shares = [(flips.lost, flips.gained, flips.by_chance) for flips in counts]
    shape = (3, len(grid.seeds), len(grid.cells))
    return FlipRates(*(np.array(shares).T.reshape(shape) / items))
