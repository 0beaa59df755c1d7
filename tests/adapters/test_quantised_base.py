"""Adapters over a base in NF4 or int8 (QLoRA): the laws hold against what the base stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for, quantised

from lfl_jax import adapters, quant, sample
from lfl_jax.model import Model
from lfl_jax.models import llama

TOKENS = jnp.arange(22).reshape(2, 11) % 96
KINDS = ("lora", "dora", "vera", "ia3", "mora", "pissa", "full_delta", "lora+bottleneck")


def run(params, adapter, cfg, **options):
    return llama.forward(params, adapter, TOKENS, cfg, **options)[0]


def dense(params):
    return jax.tree.map(quant.dense, params, is_leaf=quant.is_quantised)


# What a kind does with a quantised weight is the same in both formats: int8 is tried with two
# kinds, the rest is slow.
FORMS = [
    pytest.param(
        kind,
        form,
        marks=[pytest.mark.slow] if form == "int8" and kind not in ("lora", "dora") else [],
    )
    for form in ("nf4", "int8")
    for kind in KINDS
]


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_an_adapter_over_a_quantised_base_is_one_over_what_the_base_stands_for(
    kind, form, small, small_params
):
    params = quantised(small, small_params, form)
    held = [x for x in jax.tree.leaves(params, is_leaf=quant.is_quantised) if quant.is_quantised(x)]
    assert len(held) == 7
    if kind in ("lora", "dora"):
        fresh = adapter_for(small, params, kind, trained=False)
        assert jnp.array_equal(run(params, fresh, small), run(params, None, small))
    adapter = adapter_for(small, params, kind)
    wanted = run(dense(params), adapter, small)
    # the products are sums in another order
    np.testing.assert_allclose(run(params, adapter, small), wanted, rtol=0, atol=5e-5)
    assert jnp.abs(wanted - run(params, None, small)).max() > 0.1
    if "bottleneck" not in kind:
        merged = adapters.merge(adapter, params)
        assert not quant.is_quantised(merged["layers"]["attn"]["q"])
        np.testing.assert_allclose(run(merged, None, small), wanted, rtol=0, atol=5e-5)


def test_merging_into_a_quantised_base_leaves_other_weights_unless_a_dtype_is_named(
    small, small_params
):
    params = quantised(small, small_params)
    adapter = adapter_for(small, params, "lora", targets=("q",))
    merged = adapters.merge(adapter, params)
    assert (
        quant.is_quantised(merged["layers"]["mlp"]["up"])
        and merged["layers"]["attn"]["q"].dtype == jnp.float32
    )
    half = adapters.merge(adapter, params, jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "dora", "dora+lora"])
def test_gradients_over_a_quantised_base_are_those_over_the_dense_one(kind, small, small_params):
    params = quantised(small, small_params)
    adapter = adapter_for(small, params, kind)

    weights = jax.random.normal(jax.random.key(3), (2, 11, 32))

    def loss(adapter, params):
        return jnp.sum(run(params, adapter, small) * weights)

    got, wanted = jax.grad(loss)(adapter, params), jax.grad(loss)(adapter, dense(params))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * float(jnp.abs(y).max() + 1))


def test_loftq_starts_closer_to_the_original_as_its_best_correction(small, small_params):
    params = quantised(small, small_params)
    w, q = small_params["layers"]["mlp"]["up"], params["layers"]["mlp"]["up"]
    lost = np.asarray(w - quant.dense(q))
    adapter = adapter_for(small, small_params, "loftq", rank=4, trained=False)
    left = lost - np.asarray(adapters.deltas(adapter, params)["layers"]["mlp"]["up"])
    for before, after in zip(lost, left, strict=True):
        best = np.sqrt(np.sum(np.linalg.svd(before, compute_uv=False)[4:] ** 2))
        np.testing.assert_allclose(np.linalg.norm(after), best, rtol=1e-4)
        assert best < 0.9 * np.linalg.norm(before)


def test_decoding_over_a_quantised_base(small, small_params):
    params = quantised(small, small_params)
    adapter = adapter_for(small, params, "dora")
    options = {"max_new_tokens": 6, "eos_id": 0}
    found = [
        sample.generate(
            sample.unstacked(Model(params=p, adapter=adapter), 3),
            [[5, 7, 9], [11]],
            small,
            **options,
        )
        for p in (params, dense(params))
    ]
    assert found[0] == found[1] and any(found[0])


def test_doras_norm_is_computed_once_for_evaluation(small, small_params):
    adapter = adapter_for(small, small_params, "dora")
    held = adapters.precompute_for_inference(adapter, small_params)
    up = held["layers"]["mlp"]["up"]
    w = small_params["layers"]["mlp"]["up"] + np.asarray((up.a * up.scale[:, None]) @ up.b)
    np.testing.assert_allclose(up.n, np.linalg.norm(w, axis=1), rtol=1e-5)
    assert adapter["layers"]["mlp"]["up"].n is None
    np.testing.assert_allclose(
        run(small_params, held, small), run(small_params, adapter, small), rtol=0, atol=1e-5
    )

    def products(adapter):
        return str(jax.make_jaxpr(lambda a: run(small_params, a, small))(adapter)).count(
            "dot_general"
        )

    assert products(held) < products(adapter)
    assert (
        adapters.precompute_for_inference(adapter_for(small, small_params), small_params)
        is not None
    )
