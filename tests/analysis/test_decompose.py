"""Singular values and vectors: planted ones are found, by every method, within its stated error."""

import jax.numpy as jnp
import numpy as np
import planted_changes as planted
import pytest

from lfl_jax.analysis import decompose, spectra, tail
from lfl_jax.core import svd
from lfl_jax.errors import UserError

PLANTED = [3.0, 2.0, 1.0, 0.5, 0.01]


def test_the_values_of_factors_are_those_of_their_product():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((40, 6)), rng.standard_normal((6, 30))
    found = decompose.of_product(a, b)
    np.testing.assert_allclose(found.s, np.linalg.svd(a @ b)[1][:6], rtol=1e-12)
    assert found.method == "factors" and found.computed == 6 and found.error < 1e-12


def test_factors_wider_than_the_matrix_have_no_more_values_than_it():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((4, 9)), rng.standard_normal((9, 5))
    np.testing.assert_allclose(decompose.of_product(a, b).s, np.linalg.svd(a @ b)[1], rtol=1e-12)


def test_no_factors_are_no_values():
    found = decompose.of_product(np.zeros((4, 0)), np.zeros((0, 5)))
    assert len(found.s) == 0 and found.error == 0


def test_planted_values_are_found_by_lapack_and_by_the_gram_matrix(monkeypatch):
    dw = planted.matrix((48, 80), PLANTED)
    direct = decompose.of_matrix(dw)
    monkeypatch.setattr(decompose, "BY_LAPACK", 0)
    by_gram, transposed = decompose.of_matrix(dw), decompose.of_matrix(dw.T)
    assert (direct.method, by_gram.method, transposed.method) == ("lapack", "gram", "gram")
    for found in (direct, by_gram, transposed):
        assert found.s.shape == (48,) and found.computed == 48
        np.testing.assert_allclose(found.s[:5], PLANTED, rtol=1e-9)
        assert np.all(found.s[5:] <= found.error) and found.error < 1e-6
    # below what the Gram matrix can tell from rounding there is nothing
    assert not by_gram.s[5:].any()


def test_the_gram_matrix_is_summed_over_all_blocks(monkeypatch):
    monkeypatch.setattr(svd, "BLOCK", 7)
    x = np.random.default_rng(0).standard_normal((10, 33))
    np.testing.assert_allclose(svd.values_by_gram(x), np.linalg.svd(x)[1], rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float16", jnp.bfloat16])
def test_half_precision_is_upcast(dtype):
    x = np.random.default_rng(0).standard_normal((20, 30)).astype(dtype)
    wide = x.astype(np.float64)
    for found in (svd.values_of_matrix(x), svd.values_by_gram(x), svd.svd_of_matrix(x).s):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, np.linalg.svd(wide)[1], rtol=1e-10)
    product = svd.values_of_product(x, x.T)
    np.testing.assert_allclose(product, np.linalg.svd(wide)[1] ** 2, rtol=1e-10)


def test_what_is_not_finite_is_refused():
    for bad in (np.nan, np.inf):
        with pytest.raises(UserError, match="not finite"):
            decompose.of_matrix(np.full((3, 3), bad))


# values of real changes: a few directions above a slowly falling bulk
def decaying(shape, seed=0):
    return planted.matrix(shape, 1 / (1 + np.arange(min(shape)) / 5) + 0.05, seed)


@pytest.mark.parametrize("name", ["decaying", "gaussian", "transposed"])
def test_a_projection_with_its_tail_measures_what_the_exact_values_do(name):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((200, 320)) if name == "gaussian" else decaying((200, 320))
    x = x.T if name == "transposed" else x
    exact, found = svd.values_of_matrix(x), decompose.by_projection(x, rank=32)
    assert found.computed == 32 + decompose.OVERSAMPLING and found.s.shape == exact.shape
    assert spectra.effective_rank(found.s) == pytest.approx(spectra.effective_rank(exact), rel=0.01)
    assert spectra.energy_rank(found.s) == pytest.approx(spectra.energy_rank(exact), rel=0.02)
    assert spectra.frobenius_norm(found.s) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    # the largest of a Gaussian matrix are close to each other, which a projection takes from them
    assert spectra.stable_rank(found.s) == pytest.approx(spectra.stable_rank(exact), rel=0.05)
    # each computed value is low, by no more than is said
    low = exact[: found.computed] - found.s[: found.computed]
    assert np.all(low > -1e-9) and np.all(low <= found.error)
    assert np.all(
        np.square(exact[: found.computed]) <= np.square(found.s[: found.computed]) + found.error**2
    )


def test_the_bound_on_a_projection_holds():
    x, rng = decaying((100, 150)), np.random.default_rng(0)
    for _ in range(3):
        projection = decompose.project(x, 20, rng)
        left_out = x - projection.basis @ (projection.basis.T @ x)
        assert np.linalg.norm(left_out, 2) <= projection.bound < 20 * np.linalg.norm(left_out, 2)
        assert projection.residual == pytest.approx(np.linalg.norm(left_out), rel=1e-9)


def test_a_projection_that_leaves_out_nothing():
    x = planted.matrix((100, 120), PLANTED)
    found = decompose.by_projection(x, rank=30)
    np.testing.assert_allclose(found.s[:5], PLANTED, rtol=1e-9)
    assert np.all(found.s[5:] < 1e-6) and np.isfinite(found.samples).all()
    assert decompose.by_projection(x[:20], rank=30).computed == 20
    assert not decompose.by_projection(np.zeros((100, 120)), rank=10).s.any()


def test_the_density_of_what_is_left_out_has_no_part_of_the_basis():
    x = planted.matrix((60, 90), [100.0, 50.0, *np.linspace(2, 1, 58)])
    basis = np.linalg.svd(x)[0][:, :2]
    found = tail.samples(x, basis, np.random.default_rng(0))
    assert found.shape == (tail.SAMPLES, 58)
    assert found.max() < 2 + 1e-6 and found.min() > 1 - 1e-6
    np.testing.assert_allclose(found.mean(axis=0), np.linspace(2, 1, 58), atol=0.1)


def test_vectors_give_the_change_back(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 4)).astype("f"), rng.standard_normal((4, 20)).astype("f")
    for change in (planted.change(a @ b), planted.change(a @ b, factors=(a, b))):
        u, s, vt = decompose.svd(change)
        np.testing.assert_allclose((u * s) @ vt, a @ b, atol=1e-5)
        first = decompose.svd(change, rank=2)
        assert first.u.shape == (30, 2) and first.s.shape == (2,) and first.vt.shape == (2, 20)
        np.testing.assert_allclose(first.s, s[:2])


def test_a_few_vectors_of_a_large_matrix_span_what_the_exact_ones_do(monkeypatch):
    x = planted.matrix((150, 200), [50, 40, 30, *np.linspace(5, 1, 100)])
    exact = decompose.svd_of(x, rank=3)
    monkeypatch.setattr(decompose, "BY_LAPACK", 0)
    found = decompose.svd_of(x, rank=3)
    np.testing.assert_allclose(found.s, exact.s, rtol=1e-6)
    for side in ("u", "vt"):
        one, other = getattr(found, side), getattr(exact, side)
        overlap = one.T @ other if side == "u" else one @ other.T
        np.testing.assert_allclose(np.abs(overlap), np.eye(3), atol=1e-4)


def test_the_matrices_of_a_change():
    base = planted.matrix((12, 16), [2.0, 1.0], seed=1)
    dw = planted.matrix((12, 16), [0.5], seed=2)
    change = planted.change(dw, base)
    np.testing.assert_allclose(decompose.MATRICES["dW"](change).s[:2], [0.5, 0], atol=1e-12)
    np.testing.assert_allclose(decompose.MATRICES["W"](change).s[:3], [2, 1, 0], atol=1e-12)
    both = decompose.MATRICES["W+dW"](change).s
    np.testing.assert_allclose(both, np.linalg.svd(base + dw)[1], atol=1e-12)


def test_every_method_says_how_far_off_it_is():
    x = decaying((100, 140))
    found = {
        "lapack": decompose.of_matrix(x),
        "projection": decompose.by_projection(x, rank=10),
        "factors": decompose.of_product(x[:, :3], x[:3]),
    }
    for method, spectrum in found.items():
        assert spectrum.method == method and spectrum.describe()
    assert "26 by random projection" in found["projection"].describe()
