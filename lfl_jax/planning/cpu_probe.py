"""This machine's peaks, measured in about 10 s at the sizes of a config's own products.

A CPU has no published figures that its programs come near: small products, those of an adapter's
rank, and arrays that fit into a cache each have rates of their own. A rate is the best of
repetitions, since a machine that does something else can only make them slower.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.models.config import ModelConfig
from lfl_jax.planning.topology import CPU, Chip
from lfl_jax.run_setup import base_model

SECONDS = 2.0  # of each of the measurements
LARGEST = 1024  # tokens of the measured products: larger ones are no faster
RANK = 16  # of the narrow products of a config without an adapter
MEMORY = 0.9  # of a machine's memory, that a program may take


def wall() -> float:
    """Seconds, as a clock has them."""
    return time.perf_counter()


def cpu() -> float:
    """CPU seconds of this process for each of its cores: what `wall` is on an idle machine."""
    return time.process_time() / len(os.sched_getaffinity(0))


def measure(config: Config, clock: Callable[[], float] = wall) -> Chip:
    """This machine as a chip, at the sizes of a config."""
    cfg = base_model.shape(config)
    rows = config.train.rows
    tokens = min(rows * config.data.seq_len, LARGEST)
    rank = config.adapter.rank or RANK
    rates = {dtype: _wide(cfg, tokens, dtype, clock) for dtype in ("float32", "bfloat16")}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # one device: nothing is sent
    links = {"link_rate": 1e9, "network_rate": 1e9, "per_host": 1, "torus": 0, "largest": 1}
    return Chip(
        CPU,
        bf16=rates["bfloat16"],
        float32=rates["float32"],
        hbm_bytes=memory,
        usable=MEMORY,
        hbm_rate=_memory(tokens * cfg.d_ff, clock),
        narrow=_narrow(cfg, tokens, rank, clock),
        **links,
    )


def _wide(cfg: ModelConfig, tokens: int, dtype: str, clock: Callable[[], float]) -> float:
    """FLOP/s of x W and of its gradient by x, at the size of the mlp."""
    x = jnp.ones((tokens, cfg.d_model), dtype)
    w = jnp.ones((cfg.d_model, cfg.d_ff), dtype)

    def products(x: jax.Array, w: jax.Array) -> jax.Array:
        return (x @ w) @ w.T

    return 4 * x.size * cfg.d_ff / _best(products, (x, w), clock)


def _narrow(cfg: ModelConfig, tokens: int, rank: int, clock: Callable[[], float]) -> float:
    """FLOP/s of (x A) B and of its three gradients, at the size of attention's weights."""
    x = jnp.ones((tokens, cfg.d_model))
    a, b = jnp.ones((cfg.d_model, rank)), jnp.ones((rank, cfg.d_model))

    def products(x: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
        y, back = jax.vjp(lambda x, a, b: (x @ a) @ b, x, a, b)
        return back(y)

    return 12 * x.size * rank / _best(products, (x, a, b), clock)


def _memory(elements: int, clock: Callable[[], float]) -> float:
    """Bytes/s of reading and writing an array of this many float32."""
    x = jnp.ones(elements)
    return 2 * 4 * elements / _best(lambda x: x + 1.0, (x,), clock)


def _best(
    function: Callable[..., object], arguments: tuple[jax.Array, ...], clock: Callable[[], float]
) -> float:
    """Seconds of the fastest call, each of them long enough for the clock."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    calls, best, start = 1, float("inf"), time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        before = clock()
        for _ in range(calls):
            last = compiled(*arguments)
        jax.block_until_ready(last)
        taken = clock() - before
        # CPU clocks are coarse
        if taken < 0.02:
            calls *= 2
        else:
            best = min(best, taken / calls)
    return best


def read_or_measure(file: str, config: Config) -> Chip:
    """The figures of a file; measured, and written there, where it is missing. "" = measured."""
    path = Path(file)
    if not file or not path.exists():
        chip = measure(config)
        if file:
            path.write_text(json.dumps(dataclasses.asdict(chip), indent=1) + "\n")
        return chip
    figures = files.read_json_object(path)
    with files.expecting(path, "peaks of a CPU, as --peaks wrote them; remove it"):
        # Everything but the chip's name is a number.
        name = str(figures.pop("name"))
        return Chip(name, **{field: files.number(value) for field, value in figures.items()})
