"""The collectives of a scan over layers whose weights are sharded over eight CPU devices."""

import os

os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}

import jax
import jax.numpy as jnp

from lfl_jax.core.sharding import make_rules
from lfl_jax.planning import hlo

LAYERS, WIDTH = 5, 64
rules = make_rules()


def shaped(axes, *shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rules.sharding(axes, shape))


def loss(weights, x):
    """Of a tanh network: its backward pass needs the weights again."""
    return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0])


weights = shaped(("layers", "embed", "mlp"), LAYERS, WIDTH, WIDTH)
program = jax.jit(jax.grad(loss)).lower(weights, shaped(("batch", "embed"), 16, WIDTH)).compile()
gathered, reduced = hlo.collectives(program.as_text())
layer = WIDTH * WIDTH * 4
assert (gathered.kind, gathered.devices) == ("all-gather", 8), gathered
assert (gathered.times, gathered.bytes) == (2 * LAYERS, 2 * LAYERS * layer), gathered
# the gradients of a layer, summed over the devices
assert reduced.kind in ("all-reduce", "reduce-scatter"), reduced
assert (reduced.times, reduced.bytes) == (LAYERS, LAYERS * layer), reduced
