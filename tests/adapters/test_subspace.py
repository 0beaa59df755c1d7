"""A random subspace: P against a plain restatement in numpy, and what it promises of its columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for, moved
from scipy import linalg

from lfl_jax import adapters, state
from lfl_jax.adapters import second_adapter, subspace
from lfl_jax.config import AdapterConfig
from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.model import Model
from lfl_jax.models import llama


def plain_rows(key, dimension, rows):
    """The rows of P, block by block, as matrices in float64 (only the signs are the package's)."""
    size = 1
    while size < dimension:
        size *= 2
    blocks = -(-rows // size)
    signs = np.asarray(subspace.random_signs(jnp.asarray(key), (3, blocks, size)), np.float64)
    h = linalg.hadamard(size) / np.sqrt(size)
    stacked = [h @ np.diag(s3) @ h @ np.diag(s2) @ h @ np.diag(s1) for s1, s2, s3 in signs.swapaxes(0, 1)]  # fmt: skip
    return np.concatenate(stacked)[:rows, :dimension]


def whole_p(adapter, params):
    """P (D, d) of an adapter, a column at a time."""
    z = adapter["shared"]["subspace"]["z"]

    def column(unit):
        shared = {"subspace": adapter["shared"]["subspace"] | {"z": unit}}
        changes = adapters.deltas(adapter | {"shared": shared}, params)
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(changes)])

    return np.asarray(jax.vmap(column, out_axes=1)(jnp.eye(len(z))))


@pytest.mark.parametrize(("dimension", "rows"), [(1, 7), (6, 40), (100, 90)])
def test_rows_of_p_are_what_numpy_makes_of_the_same_signs(dimension, rows):
    key = np.array([7, 11], np.uint32)
    z = np.random.default_rng(0).normal(size=dimension).astype(np.float32)
    wanted = plain_rows(key, dimension, rows) @ z
    found = subspace.rows_times(jnp.array(z), jnp.array(key), rows)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


def test_signs_stay_what_saved_adapters_mean():
    """Another generator, or another order of its bits, would be another P in every saved file."""
    signs = np.asarray(subspace.random_signs(jnp.array([1, 2], jnp.uint32), (2, 40)))
    assert set(np.unique(signs)) == {-1.0, 1.0}
    bits = "".join("1" if sign < 0 else "0" for sign in signs.ravel())
    assert int(bits[::-1], 2) == 0xF1B16BFF9E1CAECE9DD7


def test_a_large_transform_is_the_hadamard_matrix():
    x = np.random.default_rng(1).normal(size=(2, 2048)).astype(np.float32)
    wanted = x @ linalg.hadamard(2048) / np.sqrt(2048)
    np.testing.assert_allclose(subspace.hadamard(jnp.array(x)), wanted, rtol=0, atol=1e-5)


def test_columns_of_p_are_orthonormal_over_all_weights_together(small, small_params):
    targets = ("q", "layers/[01]/mlp/up")
    adapter = adapter_for(small, small_params, "subspace", subspace_dim=12, targets=targets)
    p = whole_p(adapter, small_params)
    # the unadapted third layer of `up` has rows as well, of zeros
    assert np.count_nonzero(np.any(p != 0, axis=1)) == 3 * 32 * 32 + 2 * 32 * 48
    np.testing.assert_allclose(p.T @ p, np.eye(12), rtol=0, atol=1e-5)
    # as a Gaussian's entries: those of a column have the variance 1 / D, and a kurtosis of 3
    used = p[np.any(p != 0, axis=1)]
    assert np.mean(used**4) / np.mean(used**2) ** 2 == pytest.approx(3, rel=0.12)


def test_layers_weights_and_seeds_have_rows_of_their_own(small, small_params):
    first, other = (adapter_for(small, small_params, "subspace", seed=seed) for seed in (1, 2))
    keys = [np.asarray(layer.key) for _, layer in tree.items(first["layers"], lambda x: hasattr(x, "key"))]  # fmt: skip
    assert len(np.unique(np.concatenate(keys), axis=0)) == 7 * 3
    assert not np.array_equal(keys[0], other["layers"]["attn"]["k"].key)


def test_one_vector_trains_and_is_counted_once(small, small_params):
    adapter = adapter_for(small, small_params, "subspace", subspace_dim=40, trained=False)
    assert adapters.sizes(adapter) == (40, 40)
    mask = state.trainable_mask(Model(params=small_params, adapter=adapter), ("adapter/.*",))
    paths = [path for path, trains in tree.items(mask) if trains]
    assert paths == ["adapter/shared/subspace/z"]


def test_the_gradient_of_z_is_that_of_full_finetuning_projected():
    key = jnp.array([3, 4], jnp.uint32)
    layer = subspace.Subspace(key, 0.5 * jnp.ones(1), fan_in=6, fan_out=10)
    x, z, w = (
        jax.random.normal(jax.random.key(0), (5, 6)),
        jnp.linspace(-1, 1, 9),
        jnp.zeros((6, 10)),
    )

    def of_change(dw):
        return jnp.sum(jnp.sin(x @ dw))

    def of_z(z):
        return jnp.sum(jnp.sin(layer.replace(z=z).change(x, None, w)))

    by_change = jax.grad(of_change)(layer.replace(z=z).delta(w))
    wanted = 0.5 * plain_rows(key, 9, 60).T @ np.ravel(by_change)
    np.testing.assert_allclose(jax.grad(of_z)(z), wanted, rtol=0, atol=1e-5)


def test_nothing_as_large_as_a_weight_is_stored_for_the_backward_pass():
    z, key = jnp.ones(16), jnp.array([1, 2], jnp.uint32)
    _, backward = jax.vjp(lambda z: subspace.rows_times(z, key, 4096), z)
    assert sum(x.size for x in jax.tree.leaves(backward)) < 1024


def test_evaluation_computes_the_change_once(small, small_params):
    adapter = adapter_for(small, small_params, "subspace", targets=("q", "down"))
    computed = adapters.precompute_for_inference(adapter, small_params)
    assert "shared" not in computed
    assert isinstance(computed["layers"]["attn"]["q"], adapters.FullDelta)
    changes = [adapters.deltas(each, small_params) for each in (adapter, computed)]
    jax.tree.map(np.testing.assert_array_equal, *changes)
    # what a VeRA beside it shares is not copied into its layers
    vera = adapter_for(small, small_params, "vera+dora", targets=("q",))
    held = adapters.precompute_for_inference(vera, small_params)["layers"]["attn"]["q"].layers
    assert held[0].a is None and held[1].n is not None


def test_more_directions_than_weights_are_refused(small):
    config = AdapterConfig(kind="subspace", subspace_dim=1025, targets=("layers/1/attn/q",))
    with pytest.raises(UserError, match="subspace_dim=1025 is more than the 1024 numbers"):
        adapters.specs(llama.specs(small), config)


def test_under_a_second_adapter_its_vector_stays_frozen(small, small_params):
    first = adapter_for(small, small_params, "subspace", targets=("q",))
    second = adapter_for(small, small_params, "lora", targets=("q", "v"))
    both = adapters.add(first, second)
    frozen = second_adapter.frozen_patterns(first, both)
    model = Model(params=small_params, adapter=both)
    mask = state.trainable_mask(model, ("adapter/.*",), frozen)
    trained = {path for path, trains in tree.items(mask.adapter) if trains}
    assert trained == {
        f"layers/attn/{name}/{leaf}" for name in ("q/layers/1", "v") for leaf in "ab"
    }
    other = moved(first, 3)
    with pytest.raises(UserError, match=r"magnitude_prune\(adapters, params, weights, 1.0\)"):
        adapters.add(first, other)
