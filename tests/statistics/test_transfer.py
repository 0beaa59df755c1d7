"""Transfer between tasks learned one after another: by hand, and with its error."""

import numpy as np
import pytest

from lfl_jax.errors import UserError
from lfl_jax.statistics import transfer
from lfl_jax.statistics.effects import over_seeds, over_seeds_and_items
from lfl_jax.statistics.transfer import TaskScores

# After code, maths and law, on each; the base scores 0.2 on all.
R = np.array([[0.8, 0.3, 0.2], [0.6, 0.9, 0.25], [0.5, 0.7, 0.7]])
ITEMS = (4, 6, 10)


def tasks(matrices, items=(1, 1, 1), spread=0.0):
    """Columns of these matrices, by seed; items around their mean, which stays what it is."""
    rng = np.random.default_rng(0)
    columns = []
    for j, count in enumerate(items):
        noise = rng.normal(0, spread, (len(matrices), 1, 3, count))
        noise -= noise.mean(axis=3, keepdims=True)
        values = matrices[:, None, :, j, None] + noise
        columns.append(TaskScores(values, np.full(count, 0.2), [f"{j}/{i}" for i in range(count)]))
    return columns


def test_the_matrix_is_in_the_order_of_training():
    np.testing.assert_allclose(transfer.matrix(tasks(R[None], ITEMS, 0.1))[0, 0], R)


# Tasks count alike, however many items each has.
@pytest.mark.parametrize("items", [(1, 1, 1), ITEMS])
def test_by_hand(items):
    columns = tasks(R[None], items, 0.1 if max(items) > 1 else 0.0)
    assert transfer.learned(columns).means() == pytest.approx((0.8 + 0.9 + 0.7) / 3)
    assert transfer.at_the_end(columns).means() == pytest.approx((0.5 + 0.7 + 0.7) / 3)
    assert transfer.backward(columns).means() == pytest.approx(((0.5 - 0.8) + (0.7 - 0.9)) / 2)
    assert transfer.forward(columns).means() == pytest.approx(((0.3 - 0.2) + (0.25 - 0.2)) / 2)


def test_seeds_and_items_give_its_error():
    noisy = R + np.random.default_rng(1).normal(0, 0.02, (5, 3, 3))
    alone = over_seeds_and_items(transfer.backward(tasks(noisy)).part(0))
    by_seed = [((r[2, 0] - r[0, 0]) + (r[2, 1] - r[1, 1])) / 2 for r in noisy]
    by_hand = over_seeds(np.array(by_seed))
    # Of one item each, there is the error of seeds alone: tasks were chosen, not drawn.
    assert alone.interval() == pytest.approx(by_hand.interval())
    assert alone.interval()[0] < -0.25 < alone.interval()[1]
    same = tasks(np.stack([R] * 5), ITEMS, 0.1)
    effect = over_seeds_and_items(transfer.backward(same).part(0))
    assert effect.mean == pytest.approx(-0.25) and effect.se > 0 and effect.clusters == 10


def test_items_of_two_tasks_may_be_one_cluster():
    """Facts about the same entities, which move together."""
    rng = np.random.default_rng(2)
    entity, later = rng.normal(0, 0.3, 200), rng.normal(0, 0.3, 200)
    columns = []
    for _ in range(2):
        values = np.zeros((4, 1, 3, 200))
        values[:, :, 2] = entity
        columns.append(TaskScores(values, np.zeros(200), [f"e{i}" for i in range(200)]))
    columns.append(TaskScores(np.zeros((4, 1, 3, 200)), later, [f"w{i}" for i in range(200)]))
    shared = over_seeds_and_items(transfer.backward(columns).part(0))
    assert shared.clusters == 200 and shared.se == pytest.approx(0.3 / np.sqrt(200), rel=0.1)


def test_a_single_task_is_refused():
    for of in (
        transfer.matrix,
        transfer.learned,
        transfer.at_the_end,
        transfer.backward,
        transfer.forward,
    ):
        with pytest.raises(UserError, match="1 task; transfer needs at least 2"):
            of(tasks(R[None])[:1])
