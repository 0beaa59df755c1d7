"""What training changed in every metric of every task, at every cell of every method.

A study decides by two measures that it declared. Its runs measured more, and a reader wants to see
whether that agrees: each metric against the base, paired by item, over seeds and items.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.evals import stats
from lfl_jax.evals.metrics import Measured
from lfl_jax.statistics.effects import Effect, Part, over_seeds_and_items
from lfl_jax.studies.arms import Grid, Measure, item_values
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Cell, Run


@dataclass(frozen=True)
class Change:
    """One metric at one cell of a method.

    before: of the base, None where a base has no such metric (its divergence from itself). tuned:
    the trained models' mean. change: tuned less before. Where the runs cannot be compared with the
    base all three are None, and `reason` says why.
    """

    measure: Measure
    like: Measured
    method: str
    cell: Cell
    before: Measured | None = None
    tuned: Effect | None = None
    change: Effect | None = None
    reason: str = ""

    @property
    def is_near_chance(self) -> bool:
        """Whether the base only guesses, so that there is nothing to forget."""
        if self.before is None or not self.before.chance:
            return False
        return stats.near_chance(self.before.estimate, self.before.chance)


def measure(base: Scores, runs: Sequence[Run], by_method: Mapping[str, Grid]) -> list[Change]:
    """Every change: by task and metric in their order, then by method and cell."""
    by_place = {run.place: run for run in runs}
    everywhere = [base, *filter(None, (run.scores for run in runs))]
    changes = []
    for metric, like in _measures(everywhere).items():
        for method, grid in by_method.items():
            for cell in grid.cells:
                trained = [by_place[method, cell, seed] for seed in grid.seeds]
                changes.append(_filled(Change(metric, like, method, cell), base, trained))
    return changes


def _measures(models: Sequence[Scores]) -> dict[Measure, Measured]:
    """All that any model was measured by, each with one of its measurements."""
    measures: dict[Measure, Measured] = {}
    for scores in models:
        for task, metrics in scores.tasks.items():
            for name, measured in metrics.items():
                measures.setdefault(Measure(task, name), measured)
    # Tasks of the base come first; a task's metrics stay together.
    tasks = dict.fromkeys(measure.task for measure in measures)
    order = {task: index for index, task in enumerate(tasks)}
    return dict(sorted(measures.items(), key=lambda pair: order[pair[0].task]))


def _filled(blank: Change, base: Scores, runs: Sequence[Run]) -> Change:
    # A run of another target has a base of its own.
    base, trained = runs[0].base or base, [run.scores for run in runs]
    metric = blank.measure
    has_base = metric.metric in base.tasks.get(metric.task, {})
    like = base if has_base else trained[0]
    # One run on other items, or without the task, is a row without numbers, not the report's end.
    try:
        values = np.stack([_values(like, scores, metric) for scores in trained])
        before = _values(base, base, metric) if has_base else None
    except UserError as error:
        return dataclasses.replace(blank, reason=str(error))

    clusters = metric.of(like).column.clusters
    tuned = over_seeds_and_items(Part(values, clusters))
    if before is None:
        return dataclasses.replace(blank, tuned=tuned)
    change = over_seeds_and_items(Part(values - before, clusters))
    return dataclasses.replace(blank, before=metric.of(base), tuned=tuned, change=change)


def _values(like: Scores, scores: Scores, measure: Measure) -> Float[np.ndarray, " I"]:
    """By item, so that their plain mean is the metric."""
    values = item_values(like, scores, measure)
    if not measure.of(scores).metric.exponential:
        return values
    # Of a perplexity: the exponential and, by the delta method, what each item adds to it.
    center = values.mean()
    return np.exp(center) * (1 + values - center)
