"""Measures of a spectrum: values computed by hand, WeightWatcher's formulas, zero changes."""

import json

import numpy as np
import planted_changes as planted
import pytest
from helpers import adapter_for

from lfl_jax.analysis import decompose, spectra, weight_changes
from lfl_jax.model import Model


def test_measures_computed_by_hand():
    s = np.array([4.0, 2.0, 1.0])
    assert spectra.energy_rank(s) == 2  # 16 + 4 of 21 is 95 %, 16 is 76 %
    # exp(-(4/7 ln 4/7 + 2/7 ln 2/7 + 1/7 ln 1/7))
    assert spectra.effective_rank(s) == pytest.approx(2.6005, abs=1e-4)
    assert spectra.stable_rank(s) == pytest.approx(21 / 16)
    assert spectra.count_above(s) == 3 and spectra.count_above(s / 20) == 1
    assert spectra.count_relative(np.array([1.0, 0.05, 0.049])) == 2
    assert spectra.frobenius_norm(s) == pytest.approx(21**0.5) and spectra.spectral_norm(s) == 4


@pytest.mark.parametrize("scale", [1.0, 0.1, 1e-8])
def test_equal_values_have_their_number_as_rank(scale):
    s = np.full(10, scale)
    assert spectra.energy_rank(s) == 9  # 9 of 10 are 90 % exactly
    assert spectra.effective_rank(s) == pytest.approx(10)
    assert spectra.stable_rank(s) == pytest.approx(10)
    assert spectra.count_relative(s) == 10


@pytest.mark.parametrize("k", [1, 4, 10])
def test_a_planted_change_of_rank_k(k):
    dw = planted.matrix((40, 60), np.full(k, 0.5))
    measured = spectra.measure(decompose.of_matrix(dw))
    assert measured["k90"] == int(np.ceil(0.9 * k))
    assert measured["effective_rank"] == pytest.approx(k, rel=1e-9)
    assert measured["stable_rank"] == pytest.approx(k, rel=1e-9)
    assert measured["above_0.1"] == measured["above_5_percent"] == k
    assert measured["frobenius"] == pytest.approx(0.5 * k**0.5)


def test_ranks_do_not_depend_on_scale_and_what_does_is_declared():
    s = np.sort(np.random.default_rng(0).random(30))[::-1]
    small = 1e-3 * s
    for name, measure in spectra.MEASURES.items():
        same = measure.of(s) == pytest.approx(measure.of(small), rel=1e-9)
        assert same != measure.depends_on_scale, name


def test_zeros_have_no_part_in_the_entropy():
    s = np.array([4.0, 2.0, 1.0])
    padded = np.concatenate([s, np.zeros(7)])
    for measure in spectra.MEASURES.values():
        assert measure.of(padded) == pytest.approx(measure.of(s))


@pytest.mark.parametrize("s", [np.zeros(0), np.zeros(5)])
def test_a_zero_change_is_zero_in_every_measure(s):
    assert {measure.of(s) for measure in spectra.MEASURES.values()} == {0}


def weightwatcher_entropy(s, n):
    """matrix_entropy of WeightWatcher's RMT_Util.py (CalculatedContent/WeightWatcher, 4754964),
    restated: the entropy of the normalised squares, over the log of the numerical rank."""
    rank = np.count_nonzero(s > s.max() * n * np.finfo(s.dtype).eps)
    p = s**2 / np.sum(s**2)
    return -np.sum(p * np.log(p)) / np.log(1.000001 if rank == 1 else rank), rank


def weightwatcher_stable_rank(eigenvalues):
    """stable_rank of the same file, of the eigenvalues of W^T W."""
    return np.sum(eigenvalues) / np.max(eigenvalues)


@pytest.mark.parametrize("shape", [(30, 30), (24, 50)])
def test_parity_with_weightwatcher(shape):
    """It normalises squares: with the roots of s its entropy is that of Roy and Vetterli, of s."""
    x = np.random.default_rng(4).standard_normal(shape)
    s = np.linalg.svd(x)[1]
    entropy, rank = weightwatcher_entropy(np.sqrt(s), max(shape))
    assert spectra.effective_rank(s) == pytest.approx(np.exp(entropy * np.log(rank)), rel=1e-12)
    assert spectra.stable_rank(s) == pytest.approx(weightwatcher_stable_rank(s**2), rel=1e-12)
    assert spectra.stable_rank(s) == pytest.approx(
        np.linalg.norm(x) ** 2 / np.linalg.norm(x, 2) ** 2
    )


def test_the_spread_of_the_samples_is_the_standard_error():
    x = np.random.default_rng(0).standard_normal((80, 120))
    found = decompose.by_projection(x, rank=8)
    errors = spectra.standard_errors(found)
    assert 0 < errors["effective_rank"] < 0.02 * spectra.effective_rank(found.s)
    assert errors["spectral"] == 0
    exact = spectra.standard_errors(decompose.of_matrix(x))
    assert set(exact) == set(spectra.MEASURES) and not any(exact.values())


def test_records_of_an_adapter(small, small_params):
    adapter = adapter_for(small, small_params, rank=3, targets=("q", "down"))
    changes = weight_changes.of_model(small_params, Model(params=small_params, adapter=adapter))
    rows = list(spectra.records(changes, ("dW", "W")))
    assert len(rows) == 2 * 7 * small.n_layers
    by_name = {(row["weight"], row["matrix"]): row for row in rows}
    row = by_name["layers/2/mlp/down", "dW"]
    layer = adapter["layers"]["mlp"]["down"]
    dw = np.asarray((layer.a[2] * layer.scale[2]) @ layer.b[2], np.float64)
    s = np.linalg.svd(dw)[1][:3]
    np.testing.assert_allclose(row["s"], s, rtol=1e-3)
    assert row["effective_rank"] == pytest.approx(spectra.effective_rank(s), rel=1e-5)
    w = np.asarray(small_params["layers"]["mlp"]["down"][2], np.float64)
    assert row["relative_norm"] == pytest.approx(np.linalg.norm(dw) / np.linalg.norm(w), rel=1e-5)
    assert (row["layer"], row["module"], row["inputs"], row["outputs"]) == (2, "down", *w.shape)
    assert not row["is_zero"] and row["index"] == [1, 2, 3] and row["method"] == "factors"

    # of a weight that nothing changed: zero, said so, and no share of anything
    untouched = by_name["layers/0/attn/k", "dW"]
    assert untouched["is_zero"] and untouched["k90"] == untouched["relative_norm"] == 0
    assert "relative_norm" not in by_name["layers/0/attn/k", "W"]
    json.dumps(rows, allow_nan=False)


def test_a_base_of_zeros_has_no_relative_norm():
    change = planted.change(planted.matrix((6, 8), [1.0]), np.zeros((6, 8)))
    assert next(spectra.records([change]))["relative_norm"] is None
    assert "relative_norm" not in next(spectra.records([change], norm_of=None))


def test_means_by_module_and_step():
    rows = [
        {"step": step, "module": module, "k90": k90}
        for step, module, k90 in ((1, "q", 2), (1, "q", 4), (1, "up", 8), (2, "q", 5))
    ]
    assert spectra.means(rows, "k90", "step", "module") == {(1, "q"): 3, (1, "up"): 8, (2, "q"): 5}


def test_a_long_spectrum_is_stored_at_few_indices():
    s = np.linspace(2, 1, 4096)
    indices, values = spectra.sampled(s)
    assert indices[0] == 1 and indices[-1] == 4096 and len(indices) <= spectra.KEPT
    np.testing.assert_allclose(values, s[np.array(indices) - 1], rtol=1e-3)
