"""truncate: the best LoRA of a rank, with its error, for every kind and whatever layers have."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for

from lfl_jax import adapters
from lfl_jax.adapters.build import is_layer
from lfl_jax.adapters.truncate import norm, truncate
from lfl_jax.errors import UserError

UNEVEN = {"rank_pattern": ((".*/0/.*", 2), (".*/v", 5)), "alpha_pattern": ((".*/q", 1.5),)}
CASES = {
    "lora": {"targets": ("q", "v", "down")},
    "uneven": {"targets": ("layers/[02]/attn/q", "v"), **UNEVEN},
    "dora": {"targets": ("layers/[02]/attn/q", "v", "up"), "kind": "dora"},
    "mix": {"targets": ("q", "layers/1/mlp/gate"), "kind": "lora+lora"},
    "mix_with_dora": {"targets": ("q",), "kind": "lora+dora"},
}


@pytest.fixture(params=CASES)
def case(request, small, small_params):
    """(adapter, dense dW by path)."""
    adapter = adapter_for(small, small_params, **CASES[request.param])
    return adapter, {
        k: np.asarray(x, np.float64)
        for k, x in flat(adapters.deltas(adapter, small_params)).items()
    }


def flat(tree):
    return {jax.tree_util.keystr(k): x for k, x in jax.tree_util.tree_flatten_with_path(tree)[0]}


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_it_is_the_best_approximation(case, rank, small_params):
    adapter, dense = case
    found, error = truncate(adapter, small_params, rank)
    lost = total = 0.0
    for path, dw in flat(adapters.deltas(found, small_params)).items():
        u, s, vt = np.linalg.svd(dense[path], full_matrices=False)
        best = (u[:, :, :rank] * s[:, None, :rank]) @ vt[:, :rank]
        np.testing.assert_allclose(dw, best, rtol=0, atol=1e-5)
        lost, total = lost + np.sum((dense[path] - best) ** 2), total + np.sum(s**2)
    assert error == pytest.approx(np.sqrt(lost / total), abs=1e-5)
    measured = norm(adapters.add(adapter, adapters.negate(found)), small_params) / norm(
        adapter, small_params
    )
    assert measured == pytest.approx(error, abs=1e-4)


def test_the_result_is_lora_where_the_adapter_was(case, small_params):
    adapter, dense = case
    found, _ = truncate(adapter, small_params, 3)
    before, after = (jax.tree.leaves(x, is_leaf=is_layer) for x in (adapter, found))
    for old, new in zip(before, after, strict=True):
        assert (old is None) == (new is None)
        if new is not None:
            assert (
                type(new) is adapters.LoRA and new.a.dtype == jnp.float32 and new.a.shape[-1] == 3
            )
            assert set(np.asarray(new.scale).ravel()) <= {0.0, 1.0}
    scales = flat(jax.tree.map(lambda x: None if x is None else x.scale, found, is_leaf=is_layer))
    for path, dw in dense.items():
        np.testing.assert_array_equal(np.any(scales[path], axis=1), np.any(dw, axis=(1, 2)))


def test_rank_beyond_the_adapters_is_padding(small, small_params):
    adapter = adapter_for(small, small_params, rank=2, targets=("q",))
    found, error = truncate(adapter, small_params, 7)
    layer = found["layers"]["attn"]["q"]
    assert error == 0 and layer.a.shape == (3, 32, 7)
    np.testing.assert_array_equal(layer.scale, [[1, 1, 0, 0, 0, 0, 0]] * 3)
    assert not np.any(layer.a[:, :, 2:]) and not np.any(layer.b[:, 2:])
    assert adapters.sizes(found)[0] == adapters.sizes(adapter)[0]


def test_lora_never_holds_its_weight_change(small, small_params, monkeypatch):
    adapter = adapter_for(small, small_params, kind="lora+lora", rank=2, targets=("q", "up"))

    def dense(*_):
        raise AssertionError("dW was formed")

    monkeypatch.setattr(sys.modules[truncate.__module__], "_dense_square", dense)
    monkeypatch.setattr(adapters.LoRA, "delta", dense)
    assert truncate(adapter, small_params, 3)[1] > 0
    assert norm(adapter, small_params) > 0


@pytest.mark.parametrize("rank", [-1, 0, 17])
def test_ranks_that_do_not_fit(rank, small, small_params):
    adapter = adapter_for(small, small_params, rank=2, targets=("v",))
    with pytest.raises(
        UserError, match=f"rank {rank} does not fit layers/attn/v; expected 1 to 16"
    ):
        truncate(adapter, small_params, rank)


def test_no_change_has_no_error(small, small_params):
    adapter = adapter_for(small, small_params, trained=False, targets=("q",))
    found, error = truncate(adapter, small_params, 2)
    assert error == 0 and norm(adapter, small_params) == 0 and norm(found, small_params) == 0
    assert not np.any(found["layers"]["attn"]["q"].scale)


def test_the_norm_is_that_of_all_weights_together(case, small_params):
    adapter, dense = case
    wanted = np.sqrt(sum(np.sum(dw**2) for dw in dense.values()))
    assert norm(adapter, small_params) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_norm_of_what_is_not_finite_is_not(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind, targets=("q",))
    layer = adapter["layers"]["attn"]["q"]
    adapter["layers"]["attn"]["q"] = layer.replace(b=layer.b.at[1, 0, 2].set(np.nan))
    assert not np.isfinite(norm(adapter, small_params))
