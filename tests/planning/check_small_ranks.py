"""Run in its own process with 8 CPU devices: LoRA of rank 4, which 8 devices do not divide.

A step on the mesh is that on one device, and its state stays where it was: sharded.
"""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers import packed  # noqa: E402

from lfl_jax import adapters, optim, schedules, state  # noqa: E402
from lfl_jax.config import AdapterConfig, OptimConfig  # noqa: E402
from lfl_jax.core import spec, tree  # noqa: E402
from lfl_jax.core.sharding import make_rules  # noqa: E402
from lfl_jax.data.streams import on_mesh  # noqa: E402
from lfl_jax.model import Model  # noqa: E402
from lfl_jax.models import llama  # noqa: E402
from lfl_jax.models.config import ModelConfig  # noqa: E402
from lfl_jax.train_step import train_step  # noqa: E402

CFG = ModelConfig(
    vocab_size=64, d_model=32, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=8, d_ff=64
)
OPTIM = OptimConfig(
    name="adamw", lr=1e-2, b1=0.9, b2=0.999, eps=1e-3, weight_decay=0.01, clip=1.0, schedule="constant",
    warmup_steps=0, warmup_fraction=0.0, final_fraction=0.0, cooldown_fraction=0.0,
)  # fmt: skip


def two_steps(devices):
    rules = make_rules(1, devices, 1, devices=jax.devices()[:devices])
    specs = llama.specs(CFG)
    adapter_specs = adapters.specs(specs, AdapterConfig(kind="lora", rank=4))
    params = jax.device_put(spec.init(specs, jax.random.key(0)), spec.shardings(specs, rules))
    # a B of zeros would hide what its sharding does
    adapter = jax.tree.map(lambda x: x + 0.1, spec.init(adapter_specs, jax.random.key(1)))
    adapter = jax.device_put(adapter, spec.shardings(adapter_specs, rules))
    tx = optim.make(OPTIM, schedules.make(OPTIM, 4))
    current, frozen = state.create(
        Model(params=params, adapter=adapter), ("adapter/.*",), tx, rules
    )
    rows = packed([[7, 9], [16], [5, 11], [3, 2], [16], [4, 9], [8, 8], [16]], 16, CFG.vocab_size)
    batch = on_mesh(rows, 1, rules)
    before = shards(current)
    for _ in range(2):
        current, metrics = train_step(current, frozen, batch, None, cfg=CFG, tx=tx, rules=rules)
    assert shards(current) == before, "the state moved"
    return jax.device_get(current.trainable), float(metrics["loss"]), before


def shards(current):
    """The shape of a device's part of every array, by path."""
    return {path: x.sharding.shard_shape(x.shape) for path, x in tree.items(current)}


alone, loss, _ = two_steps(1)
shared, other, parts = two_steps(8)
worst = max(
    float(np.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (alone, shared)), strict=True)
)
whole = [path for path, x in parts.items() if x == (2, 4, 32) or x == (2, 32, 4)]
print(f"loss differs by {abs(loss - other):.1e}, weights by {worst:.1e}; stored whole: {whole}")
assert abs(loss - other) < 1e-5 and worst < 1e-5 and not whole
