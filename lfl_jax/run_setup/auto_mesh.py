"""config.mesh.auto: the mesh of a run by its devices, model and batch, and why it is that one.

Rows are split over data and fsdp as far as they divide. Of these, fsdp is as small as the memory
allows, because a device that has its weights whole gathers none: with it, weights, gradients and
moments take at most half of a device's memory, which leaves the rest to activations. The tensor
axis, whose devices wait for each other in every layer, takes only what rows cannot.
"""

import dataclasses
import math
import os

import jax

from lfl_jax.config import Config
from lfl_jax.core import spec, tree
from lfl_jax.models.config import ModelConfig
from lfl_jax.run_setup import base_model, model_specs

GIB = 2**30
SHARE = 0.5  # of a device's memory, for what is stored


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Devices along each mesh axis, and the reason in a line."""

    data: int
    fsdp: int
    tensor: int
    why: str


def choose(config: Config, shape: ModelConfig, devices: int, memory: float | int) -> Sizes:
    """The mesh of so many devices with so many bytes of memory each."""
    rows = config.train.rows
    tensor = _tensor(shape, devices, rows)
    # so many parts of the rows, some of which may be the same where rows are too few
    parts = devices // tensor
    stored = stored_bytes(config, base_model.numerics(shape, config))
    fits = [
        fsdp
        for fsdp in divisors(parts)
        if shape.d_model % fsdp == 0 and stored / fsdp / tensor <= SHARE * memory
    ]
    fsdp = min(fits, default=max(f for f in divisors(parts) if shape.d_model % f == 0))
    what = f"{stored / GIB:.2f} GiB of weights, gradients and moments"
    room = f"half of {memory / GIB:.1f} GiB"
    over = "over fsdp" if fsdp > 1 else "whole on a device"
    fit = f"{what}, {over}, take at most {room}" if fits else f"{what} take more than {room}"
    why = f"{devices} devices, {rows} rows: {fit}"
    return Sizes(parts // fsdp, fsdp, tensor, why)


def _tensor(shape: ModelConfig, devices: int, rows: int) -> int:
    """The smallest tensor axis that leaves as many devices as divide the rows; 1 if none does."""
    allowed = divisors(math.gcd(shape.n_heads, shape.n_kv_heads, devices))
    return next((n for n in allowed if rows % (devices // n) == 0), 1)


def stored_bytes(config: Config, cfg: ModelConfig) -> int:
    """Bytes of frozen weights and adapters, and of what trains, its gradient and two moments."""
    trainable, frozen = model_specs.halves(config, cfg)
    held, trains = map(spec.abstract, (frozen, model_specs.in_float32(trainable)))
    return tree.nbytes(held) + 4 * tree.nbytes(trains)


def divisors(n: int) -> list[int]:
    """All of them, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def device_memory() -> float:
    """Bytes that a program gets of one device; a CPU's devices share the machine's memory."""
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    # some runtimes report nothing of a device
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole / jax.local_device_count()
