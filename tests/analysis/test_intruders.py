"""Intruders: planted ones are counted exactly, and no basis that an SVD picks changes a count."""

import numpy as np
import pytest
from helpers import adapter_for

from lfl_jax.analysis import intruders, weight_changes
from lfl_jax.analysis.intruders import cosine_floor, counts, directions
from lfl_jax.errors import UserError
from lfl_jax.model import Model


def orthonormal(rng, size, count):
    return np.linalg.qr(rng.normal(size=(size, count)))[0]


def spectrum(rng, shape, s):
    """(v, u, W = v diag(s) u^T) with inputs by outputs."""
    v, u = (orthonormal(rng, size, len(s)) for size in shape)
    return v, u, (v * s) @ u.T


def published(w, dw, k=10):
    """The raw maxima as the paper's script has them, in torch's layout: plain SVDs."""
    u0, u = (np.linalg.svd(x.T, full_matrices=False)[0] for x in (w, w + dw))
    return np.abs(u.T @ u0).max(axis=1)[:k]


@pytest.mark.parametrize("shape", [(24, 24), (24, 40), (40, 24)])
def test_planted_intruders_are_counted_exactly(shape):
    rng = np.random.default_rng(0)
    s = np.linspace(4, 1, 20)
    # 4 directions that W does not have in its 24, of which 3 are planted
    v, u = (orthonormal(rng, size, 24) for size in shape)
    w = (v[:, :20] * s) @ u[:, :20].T
    dw = (v[:, 20:23] * (9.0, 3.1, 2.02)) @ u[:, 20:23].T
    found = directions(w.astype(np.float32), dw.astype(np.float32))
    assert found.is_intruder().tolist() == [j in (0, 7) for j in range(10)]
    np.testing.assert_allclose(found.s[[0, 7]], (9, 3.1), rtol=1e-5)
    np.testing.assert_allclose(np.abs(u[:, 20].T @ found.u[:, 0]), 1, rtol=1e-5)
    assert counts(found.cosines, (0.5,), (1, 5, 10)).tolist() == [[1, 1, 2]]
    assert counts(directions(w, dw, top_k=20).cosines, (0.5, 1.1), (20,)).tolist() == [[3], [20]]
    # s v u^T are parts of W + dW: with all of them it is whole
    whole = directions(w, dw, top_k=99)
    np.testing.assert_allclose((whole.v * whole.s) @ whole.u.T, w + dw, atol=1e-10)
    assert len(whole.s) == 23


def test_raw_maxima_are_the_papers():
    rng = np.random.default_rng(1)
    for shape in ((32, 32), (32, 48), (48, 32)):
        w = rng.normal(size=shape)
        dw = 2 * rng.normal(size=(shape[0], 2)) @ rng.normal(size=(2, shape[1]))
        found, wanted = directions(w, dw), published(w, dw)
        np.testing.assert_allclose(found.cosines, wanted, atol=1e-9)
        # The space of outputs: that of inputs gives others.
        assert not np.allclose(wanted, published(w.T, dw.T), atol=1e-2)
        assert 0 < found.is_intruder().sum() < 10


def test_a_rotated_degenerate_subspace_changes_nothing():
    rng = np.random.default_rng(2)
    s = np.array([5.0] * 6 + [3.0] * 4 + [1.0] * 6)
    _, u, w = spectrum(rng, (24, 24), s)
    others_v, others_u = (orthonormal(rng, 24, 24) for _ in range(2))
    # three equal new directions, half in W's first subspace
    new = (u[:, :3] + others_u[:, :3] - u @ (u.T @ others_u[:, :3])) / 2
    new = np.linalg.qr(new)[0]
    dw = 20 * others_v[:, :3] @ new.T
    kept, plain = [], []
    for _ in range(3):
        # Rounding decides which basis of an equal subspace an SVD returns.
        noisy = w + 1e-8 * rng.normal(size=w.shape)
        kept.append(directions(noisy, dw).cosines)
        plain.append(published(noisy, dw))
    np.testing.assert_allclose(kept[1:], [kept[0]] * 2, atol=1e-5)
    assert np.abs(np.diff(plain, axis=0)).max() > 0.05
    # W has all of its own subspaces, however they are rotated; the paper's maxima say otherwise.
    np.testing.assert_allclose(directions(w, 1e-9 * dw).cosines, 1, atol=1e-6)
    assert published(w, 1e-9 * dw).min() < 0.9


def test_equal_directions_of_the_change_are_one_subspace():
    rng = np.random.default_rng(3)
    v, u, w = spectrum(rng, (16, 16), np.linspace(2, 1, 12))
    null_u, null_v = (np.linalg.svd(x.T)[2][12:].T for x in (u, v))
    # Two equal directions: one that W has and one that it has not. Rotated by 45 degrees both
    # would have a cosine of .71, and neither would be an intruder.
    new_u = np.stack([u[:, 0], null_u[:, 0]], axis=1)
    new_v = np.stack([v[:, 0], null_v[:, 0]], axis=1)
    dw = new_v @ np.diag([7.0, 9.0]) @ new_u.T
    found = directions(w, dw)
    np.testing.assert_allclose(found.cosines[:2], (1, 0), atol=1e-6)
    assert found.is_intruder().sum() == 1
    assert directions(w, dw, top_k=1).cosines == pytest.approx([1], abs=1e-6)


def test_a_zero_change_and_a_zero_weight():
    w = np.random.default_rng(4).normal(size=(12, 8))
    assert not directions(w, None).is_intruder().any()
    np.testing.assert_allclose(directions(w, np.zeros((12, 8))).cosines, 1)
    assert len(directions(w, None).s) == 8
    # Of a weight that is zero every direction is new.
    new = directions(np.zeros((12, 8)), w, top_k=3)
    assert new.is_intruder().all() and new.cosines.tolist() == [0.0] * 3
    assert len(directions(np.zeros((12, 8)), None).s) == 0
    with pytest.raises(UserError, match="top_k=0"):
        directions(w, w, top_k=0)


@pytest.mark.parametrize(("vectors", "size"), [(64, 64), (32, 96)])
def test_the_cosine_floor_is_that_of_random_directions(vectors, size):
    rng = np.random.default_rng(5)
    u = rng.normal(size=(4000, size))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    measured = np.median(np.abs(u[:, :vectors]).max(axis=1))
    assert cosine_floor(vectors, size) == pytest.approx(measured, rel=0.02)
    assert cosine_floor(4096, 4096) == pytest.approx(np.sqrt(2 * np.log(4096) / 4096), rel=0.1)
    assert (cosine_floor(0, 8), cosine_floor(1, 1)) == (0.0, 1.0)


def test_of_one_weight_of_a_model(small, small_params):
    adapter = adapter_for(small, small_params, targets=("q", "up"))
    tuned = Model(params=small_params, adapter=adapter)
    for change in weight_changes.of_model(small_params, tuned):
        found = intruders.of_change(change, top_k=6)
        wanted = published(change.base().astype(float), change.dense(), 6)
        np.testing.assert_allclose(found.cosines, wanted, atol=1e-3)
        assert found.u.shape == (change.shape[1], 6) and found.v.shape == (change.shape[0], 6)
