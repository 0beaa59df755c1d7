"""Tasks learned one after another: what each did to those before it and to those after it.

Backward and forward transfer of Lopez-Paz and Ranzato (NeurIPS 2017, arXiv 1706.08840). Scores are
a matrix R: R[i, j] is the score on task j of the model that was trained on tasks 0 to i, more being
better. Each entry is a mean over items, and so is what is made of them: all axes returned here have
values by item, whose plain mean is the transfer, so that its error is one over seeds and items.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.statistics.frontier import Axis


@dataclass(frozen=True)
class TaskScores:
    """A column of R, item by item: scores on one task after each training.

    values: by seed, cell of the method's grid, last task trained on, and item. untrained: the
    base's. clusters: of the items; the items of two tasks may share them. sign: of the metric,
    which the values have already: -1 for one of which less is better.
    """

    values: Float[np.ndarray, "S P N I"]
    untrained: Float[np.ndarray, " I"]
    clusters: Sequence[Hashable]
    sign: float = 1.0


def matrix(tasks: Sequence[TaskScores]) -> Float[np.ndarray, "S P N N"]:
    """R of every seed and cell; tasks in the order of training. UserError for fewer than two."""
    _require_several(tasks)
    return np.stack([task.values.mean(axis=3) for task in tasks], axis=3)


def learned(tasks: Sequence[TaskScores]) -> Axis:
    """mean over j of R[j, j]: how well each task was known right after its own training."""
    _require_several(tasks)
    return _mean_over_tasks(tasks, range(len(tasks)), lambda j: tasks[j].values[:, :, j])


def at_the_end(tasks: Sequence[TaskScores]) -> Axis:
    """mean over j of R[N-1, j]: what is known after all tasks, the average accuracy (ACC)."""
    _require_several(tasks)
    return _mean_over_tasks(tasks, range(len(tasks)), lambda j: tasks[j].values[:, :, -1])


def backward(tasks: Sequence[TaskScores]) -> Axis:
    """mean over j of R[N-1, j] - R[j, j]: below 0 where later tasks made it forget.

    Of all tasks but the last, after which none came.
    """
    _require_several(tasks)
    return _mean_over_tasks(
        tasks,
        range(len(tasks) - 1),
        lambda j: tasks[j].values[:, :, -1] - tasks[j].values[:, :, j],
    )


def forward(tasks: Sequence[TaskScores]) -> Axis:
    """mean over j of R[j-1, j] - untrained[j]: what earlier tasks did for the next one.

    Of all tasks but the first, before which none came.
    """
    _require_several(tasks)
    return _mean_over_tasks(
        tasks,
        range(1, len(tasks)),
        lambda j: tasks[j].values[:, :, j - 1] - tasks[j].untrained,
    )


def _mean_over_tasks(
    tasks: Sequence[TaskScores],
    chosen: Sequence[int],
    by_item: Callable[[int], Float[np.ndarray, "S P I"]],
) -> Axis:
    """All items of the chosen tasks; their plain mean counts every task alike."""
    parts = [by_item(j) for j in chosen]
    items = sum(part.shape[2] for part in parts)
    mean = np.mean([part.mean(axis=2) for part in parts], axis=0)[:, :, None]
    # Around its own task's mean: tasks were chosen, so that their difference is no sampling error.
    deviations = [
        (part - part.mean(axis=2, keepdims=True)) * (items / (len(parts) * part.shape[2]))
        for part in parts
    ]
    # Facts about one entity are one cluster, whichever task they are of.
    clusters = [cluster for j in chosen for cluster in tasks[j].clusters]
    return Axis(mean + np.concatenate(deviations, axis=2), clusters)


def _require_several(tasks: Sequence[TaskScores]) -> None:
    if len(tasks) < 2:
        raise UserError(f"{len(tasks)} task; transfer needs at least 2")
