"""Logits, loss and gradients against what transformers and peft computed (make_tiny_llama.py writes
the fixture)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax import losses
from lfl_jax.adapters import DoRA, LoRA
from lfl_jax.core import tree
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig

FIXTURE = dict(np.load(Path(__file__).with_name("tiny_llama.npz")))
CFG = ModelConfig(
    vocab_size=48, d_model=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, d_ff=40, rope_theta=500.0
)  # fmt: skip
TOKENS = jnp.asarray(FIXTURE["tokens"], jnp.int32)
SCALE = np.full((2, 3), 5.0 / 3, np.float32)


def nested(prefix):
    found = {}
    for name, value in FIXTURE.items():
        if name.startswith(prefix):
            *parents, leaf = name.removeprefix(prefix).split("/")
            branch = found
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[leaf] = jnp.asarray(value)
    return found


PARAMS = nested("base/value/")


def adapter_of(kind, values):
    def layer(leaves, w):
        if kind == "lora":
            return LoRA(leaves["a"], leaves["b"], jnp.asarray(SCALE))
        fresh = DoRA(leaves["a"], leaves["b"], jnp.asarray(SCALE), None, jnp.ones((2, 1)), None)
        bound = jax.vmap(lambda x, v: x.bind(v))(fresh, w)
        return bound.replace(m=leaves["m"][:, 0])

    weights = {"layers": {part: PARAMS["layers"][part] for part in ("attn", "mlp")}}
    return jax.tree.map(lambda w, v: layer(v, w), weights, values)


def batch():
    t = TOKENS.shape[1] - 1
    ones, half = np.ones((2, t), np.int32), TOKENS.shape[1] // 2
    weights = np.broadcast_to((np.arange(t) >= half).astype(np.float32), (2, t))
    found = {"tokens": TOKENS[:, :-1], "targets": TOKENS[:, 1:], "weights": weights}
    return jax.tree.map(
        jnp.asarray, found | {"segment_ids": ones, "positions": np.cumsum(ones, axis=1) - 1}
    )


def logits(params, adapter):
    return llama.logits(params, llama.forward(params, adapter, TOKENS[:, :-1], CFG)[0])


def compare_gradients(got, wanted):
    for (name, y), x in zip(tree.items(wanted), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(
            x, y, rtol=1e-3, atol=1e-4 * float(jnp.abs(y).max()), err_msg=name
        )


def test_the_base_is_transformers():
    np.testing.assert_allclose(logits(PARAMS, None), FIXTURE["base/logits"], rtol=0, atol=1e-4)
    value, grads = jax.value_and_grad(losses.nll_sum)(PARAMS, None, batch(), CFG)
    np.testing.assert_allclose(value, FIXTURE["base/loss"], rtol=1e-5)
    compare_gradients(grads, nested("base/grad/"))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_are_pefts(kind):
    adapter = adapter_of(kind, nested(f"{kind}/value/"))
    np.testing.assert_allclose(
        logits(PARAMS, adapter), FIXTURE[f"{kind}/logits"], rtol=0, atol=1e-4
    )
    assert np.abs(FIXTURE[f"{kind}/logits"] - FIXTURE["base/logits"]).max() > 0.1
    value, grads = jax.value_and_grad(losses.nll_sum, argnums=1)(PARAMS, adapter, batch(), CFG)
    np.testing.assert_allclose(value, FIXTURE[f"{kind}/loss"], rtol=1e-5)
    wanted = adapter_of("lora", nested(f"{kind}/grad/"))
    factors = jax.tree.map(
        lambda x: LoRA(x.a, x.b, None), grads, is_leaf=lambda x: not isinstance(x, dict)
    )
    compare_gradients(
        factors,
        jax.tree.map(
            lambda x: x.replace(scale=None), wanted, is_leaf=lambda x: isinstance(x, LoRA)
        ),
    )
    if kind == "dora":
        for name, wanted_m in nested("dora/grad/")["layers"]["attn"].items():
            got = grads["layers"]["attn"][name].m
            np.testing.assert_allclose(
                got, wanted_m["m"][:, 0], rtol=1e-3, atol=1e-4 * float(jnp.abs(got).max())
            )
