"""Scores that are a plain mean over several tasks, as the paper's forgetting is of three.

They are measures like those of a task: mean_of_three/acc, gauntlet_mean_of_three/acc.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from lfl_jax.analysis.forgetting import MEAN_ACCURACY, SCORES, Score
from lfl_jax.evals.metrics import Measured
from lfl_jax.evals.stats import Column
from lfl_jax.studies.records.scores import Scores

# {the mean: its tasks}
PARTS: dict[str, tuple[str, ...]] = {score.name: tuple(score.accuracies) for score in SCORES}


def with_means(scores: Scores) -> Scores:
    """The scores with every mean whose tasks were all evaluated, as further tasks."""
    means = {
        score.name: {MEAN_ACCURACY.name: _mean(scores.tasks, score)}
        for score in SCORES
        if score.is_measured(scores.tasks) and score.name not in scores.tasks
    }
    return dataclasses.replace(scores, tasks=dict(scores.tasks) | means) if means else scores


def _mean(tasks: Mapping[str, Mapping[str, Measured]], score: Score) -> Measured:
    """All items of the tasks, weighted so that every task counts alike."""
    parts = {task: tasks[task][metric] for task, metric in score.accuracies.items()}
    # Two tasks may number their items alike.
    columns = [_prefixed(task, part.column) for task, part in parts.items()]
    fields = ("ids", "clusters", "totals", "weights", "groups")
    joined = Column(*(_concatenated(columns, field) for field in fields))
    column = joined.balanced(joined.groups)
    chance = sum(part.chance or 0.0 for part in parts.values()) / len(parts)
    return Measured(MEAN_ACCURACY, column, MEAN_ACCURACY.estimate(column), chance)


def _prefixed(task: str, column: Column) -> Column:
    """A task's items as one group."""
    ids = tuple(f"{task}/{item}" for item in column.ids)
    clusters = tuple(f"{task}/{cluster}" for cluster in column.clusters)
    return Column(ids, clusters, column.totals, column.weights, (task,) * len(ids))


def _concatenated(columns: Sequence[Column], field: str) -> tuple:
    return tuple(itertools.chain(*(getattr(column, field) for column in columns)))
