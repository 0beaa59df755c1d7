"""What XLA plans for a config's training step on hardware that is not here: memory, collectives.

The real `train_step` is compiled ahead of time, for a TPU slice through libtpu and for NVIDIA GPUs
through jax's CUDA plugin, from shapes alone (`abstract_run`). Nothing is run. A compilation takes
minutes, since the compilers optimise as they do for the device itself.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import time
from typing import Any

import jax
from jax.experimental import topologies

from lfl_jax.config import Config
from lfl_jax.core.sharding import Rules
from lfl_jax.errors import UserError
from lfl_jax.kernels.linear_cross_entropy.chunks import positions_per_round
from lfl_jax.planning import abstract_run, hlo
from lfl_jax.planning.gpu_targets import GPUS
from lfl_jax.planning.hlo import Collective
from lfl_jax.planning.topology import CPU, Topology
from lfl_jax.train_step import train_step

# What compiles for a platform: packages, any of which is enough, and our extra that has them.
COMPILERS = {
    "tpu": (("libtpu",), "tpu"),
    "gpu": (("jax_cuda12_plugin", "jax_cuda13_plugin"), "cuda12"),
}
# The compilers look for the devices that they compile for, and for the cloud machine they are on.
WITHOUT_DEVICES = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# How libtpu says that a program is too large: before it is scheduled, and after.
_OVERFLOWS = (
    re.compile(r"\((?P<needed>[\d.]+[KMGT]?)\) exceeds available HBM \((?P<limit>[\d.]+[KMGT]?)\)"),
    re.compile(r"Used (?P<needed>[\d.]+[KMGT]?) of (?P<limit>[\d.]+[KMGT]?) hbm"),
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """XLA's figures of a program, in bytes per device.

    aliased: outputs that lie where arguments did. temporaries: as reported, which on TPUs counts
    more than its buffer assignment holds. code: the program itself, on TPUs. peak: arguments and
    all that is live beside them at the fullest moment.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    peak: int

    @property
    def live(self) -> int:
        """Live beside the arguments at the fullest moment."""
        return self.peak - self.arguments

    @property
    def total(self) -> int:
        """What is needed at once."""
        return self.peak + self.code


@dataclasses.dataclass(frozen=True)
class Overflow:
    """A program that does not fit: bytes per device that it needs, and those there are."""

    needed: int
    limit: int

    def __str__(self) -> str:
        over = (self.needed - self.limit) / 2**30
        return (
            f"does not fit, {over:.2f} GiB over: XLA needs {self.needed / 2**30:.2f} GiB of"
            f" {self.limit / 2**30:.2f} GiB"
        )


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled training step; without memory and collectives where XLA refuses it."""

    memory: Memory | None
    overflow: Overflow | None
    collectives: tuple[Collective, ...]
    seconds: float
    versions: dict[str, str]


def devices(machine: Topology) -> list[jax.Device]:
    """The chips of a slice or node, to compile for only; cpu:1 is this machine's.

    Raises UserError where the compiler is not installed or does not know the topology, and for
    several slices or nodes.
    """
    if machine.groups > 1:
        raise UserError(f"{machine.name}: --compile is for one slice or node")
    if machine.chip.name == CPU:
        return jax.devices("cpu")[:1]

    name = machine.chip.name
    platform = "gpu" if name in GPUS else "tpu"
    _require_compiler(platform)
    for variable, value in WITHOUT_DEVICES.items():
        os.environ.setdefault(variable, value)
    try:
        if platform == "tpu":
            return list(topologies.get_topology_desc(machine.name, "tpu").devices)
        gpu = GPUS[name]
        # hosts, processes of a host, and devices of one
        options = {"target_config": gpu.target, "topology": f"1x1x{machine.group}"}
        return list(topologies.get_topology_desc(gpu.name, "cuda", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        message = str(error).partition("\n")[0]
        raise UserError(f"{machine.name}: the compiler does not know it ({message})") from None


def _require_compiler(platform: str) -> None:
    packages, extra = COMPILERS[platform]
    if not any(importlib.util.find_spec(package) for package in packages):
        raise UserError(
            f"compiling for a {platform.upper()} needs {packages[0]}, which is not installed:"
            f" pip install 'lfl_jax[{extra}]'"
        )


def compile_step(
    config: Config, rules: Rules, machine: Topology, options: dict[str, Any] | None = None
) -> CompiledStep:
    """The training step of a config, compiled for the devices of the rules' mesh.

    A program that is too large for them is an answer, not an error. options: of the compiler, such
    as xla_dump_to.
    """
    run = abstract_run.describe(config, rules)
    start = time.perf_counter()
    lowered = train_step.lower(
        run.state, run.frozen, run.batch, run.key, cfg=run.cfg, tx=run.tx, rules=rules
    )
    try:
        program = lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        overflow = overflow_of(str(error))
        if overflow is None:
            raise
        return CompiledStep(None, overflow, (), time.perf_counter() - start, versions())
    seconds = time.perf_counter() - start

    # The loss loops over as many chunks of a row as have targets: all of them, at most.
    positions = positions_per_round(run.batch["tokens"].shape[1], run.cfg.vocab_size)
    chunks = -(-config.data.seq_len // positions)
    collectives = hlo.collectives(program.as_text(), unknown_trips=chunks)
    memory = _memory(program)
    overflow = _too_large(memory, machine)
    return CompiledStep(memory, overflow, collectives, seconds, versions())


def as_json(step: CompiledStep) -> dict[str, Any]:
    """Plain values: bytes per device, collectives of a step."""
    memory, collectives = step.memory, []
    for collective in step.collectives:
        collectives.append(dataclasses.asdict(collective) | {"sent": collective.sent})
    return {
        "fits": step.overflow is None,
        "overflow": step.overflow and dataclasses.asdict(step.overflow),
        "bytes": memory
        and dataclasses.asdict(memory) | {"live": memory.live, "total": memory.total},
        "collectives": collectives,
        "compile_seconds": round(step.seconds, 1),
        "versions": step.versions,
    }


def overflow_of(message: str) -> Overflow | None:
    """What libtpu says of a program that is too large for a device's memory; None for any other."""
    matches = (pattern.search(message) for pattern in _OVERFLOWS)
    match = next(filter(None, matches), None)
    return match and Overflow(_bytes(match["needed"]), _bytes(match["limit"]))


def _bytes(size: str) -> int:
    number = size.rstrip("KMGT")
    return round(float(number) * UNITS[size[len(number) :]])


def _memory(program: jax.stages.Compiled) -> Memory:
    stats = program.memory_analysis()
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        peak=stats.peak_memory_in_bytes,
    )


def _too_large(memory: Memory, machine: Topology) -> Overflow | None:
    """XLA compiles for a GPU what its memory cannot hold; libtpu refuses by itself."""
    limit = round(machine.chip.memory)
    return Overflow(memory.total, limit) if memory.total > limit else None


def versions() -> dict[str, str]:
    """Of jax and of the compilers that are installed."""
    packages = ("jax", "jaxlib", *(name for names, _ in COMPILERS.values() for name in names))
    return {
        name: importlib.metadata.version(name.replace("_", "-"))
        for name in packages
        if importlib.util.find_spec(name)
    }
