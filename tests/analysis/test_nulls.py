"""Nulls: Gaussian and sign matrices, rounding errors, controls, and the functional rank."""

import jax.numpy as jnp
import numpy as np
import planted_changes as planted
import pytest

from lfl_jax.analysis import nulls, spectra
from lfl_jax.analysis.decompose import of_matrix
from lfl_jax.errors import UserError


def test_the_gaussian_ranks_that_are_known():
    square, wide = nulls.gaussian((2000, 2000)), nulls.gaussian((4096, 11008))
    assert spectra.energy_rank(square.s) / 2000 == pytest.approx(0.51, rel=0.01)
    assert spectra.energy_rank(wide.s) / 4096 == pytest.approx(0.71, rel=0.01)
    assert spectra.energy_rank(nulls.gaussian((11008, 4096)).s) == spectra.energy_rank(wide.s)


@pytest.mark.parametrize("shape", [(300, 300), (128, 344), (384, 128)])
def test_the_gaussian_law_is_what_a_drawn_matrix_has(shape):
    drawn = np.linalg.svd(np.random.default_rng(0).standard_normal(shape))[1]
    law = nulls.gaussian(shape, frobenius=float(np.linalg.norm(drawn)))
    for name, measure in spectra.MEASURES.items():
        # the largest value is at the edge of the law only as N grows
        tolerance = 0.05 if name in ("stable_rank", "spectral") else 0.01
        assert measure.of(law.s) == pytest.approx(measure.of(drawn), rel=tolerance), name


def test_gaussian_factors_have_their_rank_and_norm():
    found = nulls.gaussian_factors((64, 96), 8, frobenius=3.0)
    assert found.s.shape == (8,) and spectra.frobenius_norm(found.s) == pytest.approx(3)
    assert spectra.energy_rank(found.s) < 8
    assert nulls.gaussian_factors((64, 96), 100).s.shape == (64,)
    assert len(nulls.gaussian_factors((64, 96), 0).s) == 0
    with pytest.raises(UserError, match="rank -1; expected at least 0"):
        nulls.gaussian_factors((64, 96), -1)


def test_one_step_of_a_sign_optimizer_makes_rank_of_none():
    """A change along one direction has rank 1; the signs of one of rank 4 have a high rank."""
    rank_one = planted.change(planted.matrix((80, 80), [1.0]))
    signs = nulls.one_step(rank_one)
    assert spectra.effective_rank(signs.s) == pytest.approx(1)
    assert spectra.frobenius_norm(signs.s) == pytest.approx(1)
    low = nulls.one_step_of_rank((80, 80), 4)
    assert spectra.effective_rank(low.s) > 5 * 4
    # of a batch with many more tokens than there are inputs, signs are as good as independent
    full = nulls.one_step_of_rank((200, 200), 4000)
    gaussian = spectra.energy_rank(nulls.gaussian((200, 200)).s)
    assert spectra.energy_rank(full.s) == pytest.approx(gaussian, rel=0.03)


def rounded_checkpoint(size, dtype, rank=6, n=160):
    """(true dW of low rank, the change of a checkpoint that was rounded) of a rounded base."""
    rng = np.random.default_rng(5)
    base = (0.02 * rng.standard_normal((n, n))).astype(dtype).astype(np.float32)
    dw = planted.matrix((n, n), size * np.linspace(2, 1, rank))
    tuned = (base + dw).astype(dtype).astype(np.float32)
    return dw, planted.change(tuned - base, base, stored_as=np.dtype(dtype).name)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("size", [0.02, 0.2, 5.0])
def test_the_drawn_floor_is_as_large_as_the_rounding_errors_are(size, dtype):
    dw, change = rounded_checkpoint(size, dtype)
    errors = of_matrix(change.dense() - dw)
    floor = nulls.rounding_floor(change)
    assert spectra.frobenius_norm(floor.s) == pytest.approx(
        spectra.frobenius_norm(errors.s), rel=0.15
    )


def test_a_rounded_change_of_low_rank_has_it_again_without_its_floor():
    dw, change = rounded_checkpoint(0.01, jnp.bfloat16)
    raw = of_matrix(change.dense())
    found = nulls.without_floor(raw, nulls.rounding_floor(change))
    assert spectra.effective_rank(raw.s) > 30
    assert np.count_nonzero(found.s) == 6
    np.testing.assert_allclose(found.s[:6], np.linalg.svd(dw)[1][:6], rtol=0.05)


def test_what_was_not_rounded_has_no_floor():
    assert nulls.rounding_floor(planted.change(planted.matrix((8, 8), [1.0]))) is None
    spectrum = of_matrix(planted.matrix((8, 8), [1.0]))
    nothing = of_matrix(np.zeros((8, 8)))
    assert nulls.without_floor(spectrum, nothing) is spectrum


def record(weight, k90, step=5):
    return {"weight": weight, "matrix": "dW", "step": step, "k90": k90}


def test_a_run_beside_its_control():
    run = [record("layers/0/attn/q", 6.0), record("layers/1/attn/q", 3.0)]
    control = [record("layers/1/attn/q", 0.0), record("layers/0/attn/q", 4.0)]
    first, second = nulls.beside(run, control, "k90")
    assert (first["value"], first["null"], first["ratio"]) == (6, 4, 1.5)
    assert second["null"] == 0 and second["ratio"] is None
    with pytest.raises(UserError, match="not of the same weights and steps: layers/0/attn/q"):
        nulls.beside(run, [record("layers/0/attn/q", 4.0, step=6), control[0]], "k90")
    with pytest.raises(UserError, match="not of the same"):
        nulls.beside(run[:1], control, "k90")


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 16])
@pytest.mark.parametrize("lower_is_better", [False, True])
def test_the_functional_rank_is_the_least_that_keeps_enough(needed, lower_is_better):
    calls = []

    def score(rank):
        calls.append(rank)
        value = 0.96 if rank >= needed else 0.9 * rank / needed
        return 1 - value if lower_is_better else value

    scores = (1.0, 0.0) if lower_is_better else (0.0, 1.0)
    found = nulls.functional_rank(score, 16, untrained=scores[0], trained=scores[1])
    assert found.rank == needed and set(found.scores) == set(calls) and len(calls) <= 9


def test_a_functional_rank_may_not_be_reached():
    found = nulls.functional_rank(lambda rank: 0.5, 6, untrained=0.0, trained=1.0)
    assert found.rank is None and set(found.scores) == {1, 2, 4, 6}
    with pytest.raises(UserError, match="nothing was learned"):
        nulls.functional_rank(lambda rank: 0.5, 6, untrained=1.0, trained=1.0)


def test_values_near_the_floor_are_shrunk_as_the_law_says():
    """In square noise whose largest value is 2, a value x is seen as x + 1/x; the best for the
    Frobenius norm is then x - 1/x."""
    n, rng = 200, np.random.default_rng(0)
    noise, other = (of_matrix(rng.standard_normal((n, n)) / n**0.5) for _ in range(2))
    assert noise.s[0] == pytest.approx(2, rel=0.05)
    seen = planted.matrix((n, n), [5.0, 3.0]) + rng.standard_normal((n, n)) / n**0.5
    found = nulls.without_floor(of_matrix(seen), other)
    np.testing.assert_allclose(found.s[:2], [5 - 1 / 5, 3 - 1 / 3], rtol=0.04)
    assert np.all(found.s[2:] < 0.7) and np.count_nonzero(found.s) < 6
