"""Whole models on our side of benchmarks/gpu.py: training steps and decoding; a JSON object a line
for every row.

    python benchmarks/gpu_ours.py STAGE [--size=tiny]

Everything runs through the project's own code: train_step, sample.generate.
"""

import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import gpu_sizes
import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax import adapters, optim, sample, schedules
from lfl_jax import state as states
from lfl_jax.config import AdapterConfig, OptimConfig
from lfl_jax.core import spec
from lfl_jax.core.sharding import make_rules
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.presets import PRESETS
from lfl_jax.run_setup import base_model
from lfl_jax.train_step import train_step

Row = dict[str, Any]
OPTIM = OptimConfig(
    name="adamw", lr=1e-5, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip=1.0, schedule="constant",
    warmup_steps=0, warmup_fraction=0.0, final_fraction=0.0, cooldown_fraction=0.0,
)  # fmt: skip


# --- a whole training step
# --------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A finetuning step: adapter kind, how the base is held, what trains."""

    adapter: str
    held: str
    trainable: str


KINDS = {
    "lora": Kind("lora", "bfloat16", "adapter/.*"),
    # dx through every layer, nothing else
    "none": Kind("none", "bfloat16", "params/layers/attn_norm"),
    "qlora": Kind("lora", "nf4", "adapter/.*"),
    "dora": Kind("dora", "bfloat16", "adapter/.*"),
    "full": Kind("none", "float32", "params/.*"),
}
FITS = 0.95  # of the memory, for a program and all it works on: the allocator's gaps take the rest


def step(size: gpu_sizes.Size, name: str) -> Iterator[Row]:
    """train_step with the least recomputation that fits; as many steps as fit into a few
    seconds."""
    kind = KINDS[name]
    preset, shape = (
        (size.full_model, size.full_shape) if name == "full" else (size.model, size.shape)
    )
    rules, tx = make_rules(), optim.make(OPTIM, schedules.make(OPTIM, 1000))
    cfg = dataclasses.replace(PRESETS[preset], compute_dtype="bfloat16")
    params = base_model.random_params(cfg, 0, rules, kind.held)
    model = Model(params=params, adapter=_adapter(cfg, kind, params))
    state, frozen = states.create(model, (kind.trainable,), tx, rules)
    del params, model
    rows = _batch(cfg, size.batch, size.tokens)
    for remat in ("none", "selective", "full"):
        cfg = dataclasses.replace(cfg, remat=remat)
        start = time.perf_counter()
        program = train_step.lower(state, frozen, rows, None, cfg=cfg, tx=tx, rules=rules).compile()
        compiled, needed = time.perf_counter() - start, _needed(program)
        if needed < FITS * (_memory("bytes_limit") or 1 << 62):
            break
        print(
            f"  {name}: {needed / 2**30:.1f} GiB without more recomputation than {remat!r}",
            file=sys.stderr,
        )
    losses, took = [], []
    for _ in range(size.steps + 2):
        start = time.perf_counter()
        state, metrics = program(state, frozen, rows, None)
        losses.append(float(metrics["loss"]))
        took.append(time.perf_counter() - start)
    yield {
        "framework": "lfl_jax", "what": name, "model": preset, "batch": size.batch, "tokens": size.tokens,
        "remat": remat, "step_s": statistics.median(took[2:]), "compile_s": compiled, "loss": losses[0],
        "last_loss": losses[-1], "program_bytes": needed, "peak_bytes": _memory("peak_bytes_in_use"),
    } | gpu_sizes.flops(shape, name, remat)  # fmt: skip


def _memory(what: str) -> int | None:
    """A figure of the device's allocator, where it has one; the peak is that of the process, from
    its start on."""
    return (jax.devices()[0].memory_stats() or {}).get(what)


def _adapter(cfg: ModelConfig, kind: Kind, params: dict) -> dict:
    """Rank 16 on all linear weights, with factors that are not zero."""
    if kind.adapter == "none":
        return {}
    specs = adapters.specs(llama.specs(cfg), AdapterConfig(kind=kind.adapter, rank=16))
    build = jax.jit(lambda key: jax.tree.map(lambda x: x + 1e-3, spec.init(specs, key)))
    return adapters.bind(build(jax.random.key(1)), params)


def _batch(cfg: ModelConfig, rows: int, tokens: int) -> dict:
    """One microbatch of random tokens, every one a target; a document a row."""
    ids = (
        np.random.default_rng(0).integers(3, cfg.vocab_size, (1, rows, tokens + 1)).astype(np.int32)
    )
    ones = np.ones_like(ids[..., 1:])
    found = {"tokens": ids[..., :-1], "targets": ids[..., 1:], "weights": ones.astype(np.float32)}
    return jax.tree.map(
        jnp.asarray, found | {"segment_ids": ones, "positions": np.cumsum(ones, axis=-1) - 1}
    )


def _needed(program: Any) -> int:
    """Bytes that a compiled program takes on the device."""
    m = program.memory_analysis()
    return (
        m.argument_size_in_bytes
        + m.temp_size_in_bytes
        + m.output_size_in_bytes
        - m.alias_size_in_bytes
    )


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(size: gpu_sizes.Size, held: str, stacked: bool = False) -> Iterator[Row]:
    """sample.generate: the time of one prompt and 32 tokens, and of each token after them, without
    prompt. The programs of all batches are compiled side by side. stacked: from the layers as
    training has them, as evaluations do."""
    rules = make_rules()
    cfg = dataclasses.replace(PRESETS[size.model], compute_dtype="bfloat16")
    model = Model(params=base_model.random_params(cfg, 0, rules, held), adapter={})
    model = model if stacked else sample.unstacked(model, cfg.n_layers)

    def run(rows: int, stop: Callable) -> float:
        prompts = np.random.default_rng(0).integers(3, cfg.vocab_size, (rows, size.prompt)).tolist()
        start = time.perf_counter()
        sample.generate(model, prompts, cfg, max_new_tokens=2 * sample.ROUND, eos_id=-1, stop=stop)
        return time.perf_counter() - start

    def measured(rows: int) -> Row:
        pairs = [(run(rows, whole), run(rows, first)) for _ in range(5)]
        return gpu_sizes.decoded(pairs, sample.ROUND, rows) | {
            "peak_bytes": _memory("peak_bytes_in_use")
        }

    whole, first = (lambda _: False), (lambda _: True)
    with ThreadPoolExecutor(len(size.decode_rows)) as pool:
        compiled = [pool.submit(run, rows, whole) for rows in size.decode_rows]
    for rows, ran in zip(size.decode_rows, compiled, strict=True):
        row = {
            "framework": "lfl_jax",
            "what": f"{held}, stacked" if stacked else held,
            "rows": rows,
        }
        error = ran.exception()  # such as too little memory for many rows
        yield row | (
            {"error": f"{type(error).__name__}: {error}"[:300]} if error else measured(rows)
        )


STAGES: dict[str, Callable[[gpu_sizes.Size], Iterator[Row]]] = {
    **{f"step_{name}": functools.partial(step, name=name) for name in KINDS},
    "decode_bf16": functools.partial(decode, held="bfloat16"),
    "decode_nf4": functools.partial(decode, held="nf4"),
    "decode_stacked": functools.partial(decode, held="bfloat16", stacked=True),
}


if __name__ == "__main__":
    gpu_sizes.main(STAGES, __doc__)
