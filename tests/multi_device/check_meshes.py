"""Run in its own process with 8 CPU devices: steps on a mesh against the steps on one device.

python tests/multi_device/check_meshes.py lora+dora 2x2x2 [adamw] [penalties]
"""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

import dataclasses  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers import packed, quantised  # noqa: E402

from lfl_jax import adapters, optim, penalties, schedules, state  # noqa: E402
from lfl_jax.config import AdapterConfig, OptimConfig, PenaltyConfig  # noqa: E402
from lfl_jax.core import spec  # noqa: E402
from lfl_jax.core.sharding import make_rules  # noqa: E402
from lfl_jax.data.streams import on_mesh  # noqa: E402
from lfl_jax.model import Model  # noqa: E402
from lfl_jax.models import llama  # noqa: E402
from lfl_jax.models.config import ModelConfig  # noqa: E402
from lfl_jax.train_step import train_step  # noqa: E402

CFG = ModelConfig(
    vocab_size=128,
    d_model=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    d_ff=64,
    adapter_dropout=0.1,
)
OPTIM = OptimConfig(
    name="adamw", lr=1e-2, b1=0.9, b2=0.999, eps=1e-3, weight_decay=0.01, clip=1.0, schedule="constant",
    warmup_steps=0, warmup_fraction=0.0, final_fraction=0.0, cooldown_fraction=0.0,
)  # fmt: skip
LENGTHS = [[7, 12, 9], [20, 6], [3, 28], [16, 10], [32], [30, 2], [5, 5, 5], [11, 20]]


def step(mesh, kind, trainable, form, optimizer):
    rules = make_rules(*mesh, devices=jax.devices()[: int(np.prod(mesh))])
    specs = llama.specs(CFG)
    params = spec.init(specs, jax.random.key(0))
    params = jax.device_put(params, spec.shardings(specs, rules))
    adapter, originals = {}, params
    if form:
        params = quantised(CFG, params, form, rules)
    if kind != "none":
        adapter_specs = adapters.specs(
            specs, AdapterConfig(kind=kind, rank=4 if "mora" in kind else 8)
        )
        start = jax.jit(
            lambda params, originals: adapters.init(
                adapter_specs, params, jax.random.key(1), originals
            )
        )
        adapter = jax.device_put(start(params, originals), spec.shardings(adapter_specs, rules))
    config = dataclasses.replace(OPTIM, name=optimizer)
    tx = optim.make(config, schedules.make(config, 4))
    current, frozen = state.create(Model(params=params, adapter=adapter), trainable, tx, rules)
    rows = packed(LENGTHS, 32, CFG.vocab_size)
    batch = on_mesh(rows, 2, rules)
    key, penalty = jax.random.key(5), penalties.make(PENALTIES, current, rules)
    options = {"cfg": CFG, "tx": tx, "rules": rules, "penalty": penalty}
    for _ in range(2):
        current, metrics = train_step(current, frozen, batch, key, **options)
    if penalty is not None:
        print({name: f"{float(metrics[name]):.6g}" for name in ("non_target_kl", "l2_to_base")})
    spread = [
        x.sharding.num_devices
        for x in jax.tree.leaves(current.trainable)
        if not x.sharding.is_fully_replicated
    ]
    return jax.device_get(current.trainable), float(metrics["loss"]), len(spread)


# the second step is away from the base
PENALTIES = PenaltyConfig(0.01, 1.0) if "penalties" in sys.argv else PenaltyConfig()
ADAPTER, PARAMS = ("adapter/.*",), ("params/.*",)
CASES = {
    "lora+dora": (ADAPTER, ""),
    "lora+subspace": (ADAPTER, ""),
    "none": (PARAMS, ""),
    "pissa+vera+mora+loftq+bottleneck": (ADAPTER, "nf4"),
}
optimizer = (sys.argv[3:] or ["adamw"])[0]
kind, mesh = sys.argv[1], tuple(map(int, sys.argv[2].split("x")))
alone, loss, _ = step((1, 1, 1), kind, *CASES[kind], optimizer)
shared, other, spread = step(mesh, kind, *CASES[kind], optimizer)
worst = max(
    float(np.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (alone, shared)), strict=True)
)
print(
    f"{kind} on {mesh}: loss differs by {abs(loss - other):.1e}, weights by {worst:.1e}; {spread}"
    " sharded"
)
assert abs(loss - other) < 1e-5 and worst < 1e-5 and spread > 0
