"""Subspaces: values by hand, and nulls that random subspaces and random changes have."""

import dataclasses

import numpy as np
import pytest
from helpers import adapter_for

from lfl_jax.analysis import subspaces, weight_changes
from lfl_jax.analysis.subspaces import UnitChange
from lfl_jax.errors import UserError
from lfl_jax.model import Model


def orthonormal(rng, size, count):
    return np.linalg.qr(rng.normal(size=(size, count)))[0]


def test_similarity_by_hand():
    e = np.eye(6)
    assert subspaces.similarity(e[:, :2], e[:, :4]) == 1
    assert subspaces.similarity(e[:, :2], e[:, 2:]) == 0
    # one of two directions is shared
    assert subspaces.similarity(e[:, [0, 5]], e[:, :3]) == 0.5
    u, v = (orthonormal(np.random.default_rng(seed), 9, 4) for seed in (0, 1))
    # no basis of either space changes it
    q = orthonormal(np.random.default_rng(2), 4, 4)
    assert subspaces.similarity(u @ q, v) == pytest.approx(subspaces.similarity(u, v))
    table = subspaces.similarities(u, v[:, :3])
    wanted = [[subspaces.similarity(u[:, :i], v[:, :j]) for j in (1, 2, 3)] for i in (1, 2, 3, 4)]
    np.testing.assert_allclose(table, wanted)


@pytest.mark.parametrize(("size", "i", "j"), [(12, 3, 5), (8, 2, 2)])
def test_random_subspaces_are_as_similar_as_the_null_says(size, i, j):
    rng, fixed = np.random.default_rng(0), np.eye(size)[:, :i]
    draws = [subspaces.similarity(fixed, orthonormal(rng, size, j)) for _ in range(4000)]
    null = subspaces.random_similarity(size, i, j)
    assert np.mean(draws) == pytest.approx(null.mean, abs=4 * null.sd / 60)
    assert np.std(draws) == pytest.approx(null.sd, rel=0.05)
    assert subspaces.random_similarity(size, size, 2) == subspaces.Null(1.0, 0.0)


def test_amplification_by_hand_and_of_random_directions():
    rng = np.random.default_rng(1)
    v, u = orthonormal(rng, 20, 6), orthonormal(rng, 12, 6)
    s = np.array([9.0, 8, 4, 2, 1, 1])
    w = (v * s) @ u.T
    # The change is of size 5 and lies in W's third and fourth directions.
    found = subspaces.amplification(w, v[:, 2:4], np.array([4.0, 3.0]), u[:, 2:4], s)
    assert found.factor == pytest.approx(5 / np.hypot(4, 2))
    assert found.in_top == pytest.approx(np.hypot(9, 8))
    draws = [
        np.square(orthonormal(rng, 20, 2).T @ w @ orthonormal(rng, 12, 2)).sum()
        for _ in range(3000)
    ]
    assert found.in_random == pytest.approx(np.sqrt(np.mean(draws)), rel=0.03)
    assert found.random_factor == pytest.approx(5 / found.in_random)
    nothing = subspaces.amplification(w, v[:, :1], np.zeros(1), u[:, :1], s)
    assert nothing.factor == nothing.random_factor == 0
    of_nothing = subspaces.amplification(0 * w, v[:, :1], np.zeros(1), u[:, :1], 0 * s)
    assert of_nothing.factor == of_nothing.random_factor == 0
    outside = np.linalg.svd(v.T)[2][6:7].T
    alone = subspaces.amplification(w, outside, np.ones(1), u[:, :1], s)
    assert alone.factor > 1e10


@pytest.fixture
def changes(small, small_params):
    """(seed, rank) -> the change of one weight by an adapter."""

    def change(seed, rank=3, trained=True):
        adapter = adapter_for(
            small, small_params, seed=seed, rank=rank, targets=("up",), trained=trained
        )
        tuned = Model(params=small_params, adapter=adapter)
        every = weight_changes.of_model(small_params, tuned)
        return next(change for change in every if change.name == "layers/1/mlp/up")

    return change


def test_changes_of_two_runs_and_of_a_run_and_its_base(changes):
    first, second = changes(1), changes(2, rank=2)
    same = subspaces.of_changes(first, first, 3, 3)
    assert (same.inputs, same.outputs) == pytest.approx((1, 1))
    found = subspaces.of_changes(first, second, 2, 8)
    (u, _, vt), (x, _, yt) = (np.linalg.svd(c.dense().astype(float)) for c in (first, second))
    assert found.inputs == pytest.approx(subspaces.similarity(u[:, :2], x[:, :2]), abs=1e-5)
    assert found.outputs == pytest.approx(subspaces.similarity(vt[:2].T, yt[:2].T), abs=1e-5)
    # the second has no more than its rank
    assert found.random_inputs == subspaces.random_similarity(32, 2, 2)
    assert found.random_outputs == subspaces.random_similarity(48, 2, 2)
    x, s, yt = np.linalg.svd(first.base().astype(float))
    base = subspaces.with_base(first, 2, 4)
    assert base.inputs == pytest.approx(subspaces.similarity(u[:, :2], x[:, :4]), abs=1e-5)
    amplified = subspaces.amplification_of(first, 2)
    wanted = np.linalg.norm(first.dense()) / np.linalg.norm(u[:, :2].T @ first.base() @ vt[:2].T)
    assert amplified.factor == pytest.approx(wanted, rel=1e-4)
    assert amplified.in_top == pytest.approx(np.linalg.norm(s[:2]), rel=1e-5)
    nothing = changes(1, trained=False)
    assert subspaces.amplification_of(nothing, 2).factor == 0
    with pytest.raises(UserError, match="the change of layers/1/mlp/up is zero"):
        subspaces.of_changes(first, nothing, 1, 1)
    with pytest.raises(UserError, match=r"up is \(32, 48\) in one and \(1, 1\) in the other"):
        subspaces.of_changes(first, dataclasses.replace(second, shape=(1, 1)), 1, 1)


def test_magnitude_and_direction_by_hand():
    w = np.array([[3.0, 1.0, 0.0], [4.0, 0.0, 0.0]])
    # the first output grows in place, the second turns by 90 degrees, the third had no direction
    dw = np.array([[3.0, -1.0, 2.0], [4.0, 1.0, 0.0]])
    change = subspaces.unit_change(w, dw)
    assert change.magnitude == pytest.approx((5 + 0 + 2) / 3)
    assert change.direction == pytest.approx((0 + 1) / 2) and change.left_out == 1
    by_input = subspaces.unit_change(w.T, dw.T, per_input=True)
    assert (by_input.magnitude, by_input.direction) == (change.magnitude, change.direction)
    none = subspaces.unit_change(w, np.zeros_like(w))
    assert (none.magnitude, none.direction, none.random_direction) == (0, 0, 0)


def test_a_tiny_turn_keeps_its_digits():
    angle = 1e-6
    w = np.array([[1.0], [0.0]])
    turned = np.array([[np.cos(angle) - 1], [np.sin(angle)]])
    assert subspaces.unit_change(w, turned).direction == pytest.approx(angle**2 / 2, rel=1e-5)


def test_the_null_of_a_unit_is_a_random_change_of_its_size():
    rng = np.random.default_rng(3)
    w = rng.normal(size=(40, 400))
    change = subspaces.unit_change(w, 0.1 * rng.normal(size=w.shape), seed=7)
    assert change.random_magnitude == pytest.approx(change.magnitude, rel=0.15)
    assert change.random_direction == pytest.approx(change.direction, rel=0.1)
    # along W itself only magnitudes change, which a random change of that size does not do
    along = subspaces.unit_change(w, 0.1 * w)
    assert along.direction < 1e-12 < along.random_direction
    assert along.magnitude > 4 * along.random_magnitude


def test_correlation_over_layers():
    def changes(magnitudes, directions):
        return [
            UnitChange(float(m), d, float(m), 2 * d)
            for m, d in zip(magnitudes, directions, strict=True)
        ]

    found = subspaces.magnitude_against_direction(changes((1.0, 2, 4), (0.3, 0.2, 0.1)))
    assert found.value == pytest.approx(np.corrcoef((1, 2, 4), (3, 2, 1))[0, 1])
    assert found.random == pytest.approx(found.value) and found.points == 3
    with pytest.raises(UserError, match="2 weights changed"):
        subspaces.magnitude_against_direction(changes((1.0, 2), (0.3, 0.2)))
    with pytest.raises(UserError, match="no correlation"):
        subspaces.magnitude_against_direction(changes((1.0, 1, 1), (0.3, 0.2, 0.1)))
