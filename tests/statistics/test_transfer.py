"""Transfer between tasks learned one after another: by hand, and what is missing."""

import numpy as np
import pytest

from lfl_jax.errors import UserError
from lfl_jax.statistics import transfer

# After code, maths and law, on each; the base scores 0.2 on all.
R = np.array([[0.8, 0.3, 0.2], [0.6, 0.9, 0.25], [0.5, 0.7, 0.7]])


def test_backward_transfer_is_what_is_left_of_earlier_tasks():
    assert transfer.backward(R[None]).mean == pytest.approx(((0.5 - 0.8) + (0.7 - 0.9)) / 2)


def test_forward_transfer_is_what_earlier_tasks_did_for_the_next():
    effect = transfer.forward(R[None], np.full((1, 3), 0.2))
    assert effect.mean == pytest.approx(((0.3 - 0.2) + (0.25 - 0.2)) / 2)


def test_seeds_give_its_error():
    noise = np.random.default_rng(1).normal(0, 0.02, (5, 3, 3))
    low, high = transfer.backward(R + noise).interval()
    assert low < -0.25 < high and 0 < high - low < 0.15
    same = transfer.backward(np.stack([R] * 5))
    assert same.interval() == pytest.approx((-0.25, -0.25))


def test_the_matrix_is_in_the_order_of_training():
    tasks = ("code", "maths", "law")
    scores = {(a, b): R[i, j] for i, a in enumerate(tasks) for j, b in enumerate(tasks)}
    np.testing.assert_array_equal(transfer.matrix(scores, tasks), R)
    np.testing.assert_array_equal(transfer.matrix(scores, tasks[::-1]), R[::-1, ::-1])


def test_missing_scores_and_single_tasks_are_refused():
    with pytest.raises(UserError, match="3 scores are missing, such as that on b after .* on a"):
        transfer.matrix({("a", "a"): 1.0}, ("a", "b"))
    with pytest.raises(UserError, match="1 task"):
        transfer.matrix({("a", "a"): 1.0}, ("a",))
