"""Run in its own process where libtpu is installed: attention, forward and backward, compiled for a
TPU v5e at Llama-2-7B's and SmolLM2's heads. No TPU is needed."""

import os

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from lfl_jax.core.sharding import make_rules
from lfl_jax.kernels.attention import attention


def loss(q, k, v, ids, rules):
    """A number that depends on everything attention puts out."""
    mask = jnp.tril(jnp.ones((q.shape[1],) * 2, bool)) & (ids[:, :, None] == ids[:, None, :])
    return jnp.sum(attention(q, k, v, mask, segment_ids=ids, rules=rules).astype(jnp.float32) ** 2)


devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
for heads, kv_heads, width, tokens, mesh in (
    (32, 32, 128, 2048, (1, 2, 2)),
    (9, 3, 64, 1000, (2, 2, 1)),
):
    rules = make_rules(*mesh, devices=devices)

    def array(*shape, axes, dtype=jnp.bfloat16, rules=rules):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rules.sharding(axes, shape))

    axes = ("batch", "time", "kv_heads", "activation")
    q = array(4, tokens, heads, width, axes=axes)
    k = array(4, tokens, kv_heads, width, axes=axes)
    ids = array(4, tokens, axes=axes[:2], dtype=jnp.int32)
    grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=4)
    compiled = grad.lower(q, k, k, ids, rules).compile()
    assert "tpu_custom_call" in compiled.as_text(), "no Pallas kernel in the program"
    print(f"compiled: {heads} heads of {width}, {tokens} tokens, mesh {mesh}")
