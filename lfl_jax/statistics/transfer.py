"""Tasks learned one after another: what each did to those before it and to those after it.

Backward and forward transfer of Lopez-Paz and Ranzato (NeurIPS 2017, arXiv 1706.08840). Scores are
a matrix R: R[i, j] is the score on task j of the model that was trained on tasks 0 to i.
"""

import itertools
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Effect, over_seeds


def matrix(
    scores: Mapping[tuple[Hashable, Hashable], float], tasks: Sequence[Hashable]
) -> Float[np.ndarray, "N N"]:
    """R of {(the last task trained on, the task of the score): score}, in the order of training.

    UserError for a score that is missing, or fewer than two tasks.
    """
    if len(tasks) < 2:
        raise UserError(f"{len(tasks)} task; transfer needs at least 2")
    pairs = list(itertools.product(tasks, tasks))
    missing = [pair for pair in pairs if pair not in scores]
    if missing:
        last, task = missing[0]
        raise UserError(
            f"{len(missing)} scores are missing, such as that on {task} after training on {last}"
        )
    values = np.array([scores[pair] for pair in pairs], np.float64)
    return values.reshape(len(tasks), len(tasks))


def backward(scores: Float[np.ndarray, "S N N"]) -> Effect:
    """mean over j of R[N-1, j] - R[j, j], over seeds: below 0 where later tasks made it forget.

    Of all tasks but the last, after which none came.
    """
    learned = np.diagonal(scores, axis1=1, axis2=2)
    return over_seeds((scores[:, -1] - learned)[:, :-1].mean(axis=1))


def forward(scores: Float[np.ndarray, "S N N"], untrained: Float[np.ndarray, "S N"]) -> Effect:
    """mean over j of R[j-1, j] - untrained[j], over seeds: what earlier tasks did for the next one.

    untrained: the base's scores. Of all tasks but the first, before which none came.
    """
    # R[j - 1, j], just above the diagonal: the next task before anything of it was trained on.
    before_training = np.diagonal(scores, offset=1, axis1=1, axis2=2)
    return over_seeds((before_training - untrained[:, 1:]).mean(axis=1))
