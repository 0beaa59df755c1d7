"""What the run needs of its machine: memory and disk as planned, and a sandbox for programs."""

import os
import shutil
from pathlib import Path

import jax

from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.evals import sandbox
from lfl_jax.evals.sandbox import Program
from lfl_jax.evals.task import Execute
from lfl_jax.evals.tasks import named
from lfl_jax.planning import abstract_run, layout, memory, plan, topology
from lfl_jax.planning.cpu_probe import MEMORY
from lfl_jax.planning.memory import GIB
from lfl_jax.planning.topology import CPU, Chip, Topology
from lfl_jax.proofs.finding import FAILED, NOT_APPLICABLE, Finding, judged
from lfl_jax.proofs.reduced import ReducedRun
from lfl_jax.run_setup import auto_mesh

# The right one alone may pass; no program may read a file of this machine.
PROGRAMS = {
    "right": "def f(x):\n    return x * x",
    "wrong": "def f(x):\n    return x + x",
    "reads a file": "def f(x):\n    return len(open('/etc/passwd').read()) and 9",
}
TESTS = "assert f(3) == 9"


def check_sandbox(run: ReducedRun) -> Finding:
    """Generated programs run isolated, where a task of the config runs any."""
    evaluations = run.full.eval
    names = (*evaluations.tasks, *evaluations.base_tasks, *evaluations.every_tasks)
    # With all that are built in.
    tasks = named(evaluations, names)
    users = [x for x in evaluations.items(names) if isinstance(tasks[x].method, Execute)]
    weak = evaluations.allow_weak_sandbox
    asked = f"needed by {', '.join(users)}" if users else "no task runs programs"
    bound = "namespaces, or weak where eval.allow_weak_sandbox is set"
    try:
        level = sandbox.level(weak)
    except UserError as error:
        outcome = FAILED if users else NOT_APPLICABLE
        return Finding(outcome, "refused here", bound, f"{asked}; {error}")
    if not users:
        return Finding(NOT_APPLICABLE, level, bound, f"{asked}; it would be {level} here")
    passed = _passed(weak)
    return judged(passed == ["right"], f"{level}; passed: {', '.join(passed)}", bound, asked)


def _passed(allow_weak: bool) -> list[str]:
    """Which of the programs pass, as `sandbox.check` says."""
    return [
        name
        for name, code in PROGRAMS.items()
        if sandbox.check(Program(code, TESTS, ("f",)), allow_weak=allow_weak).passed
    ]


def check_memory(run: ReducedRun) -> Finding:
    """What the plan says that the real run takes of a device is there."""
    machine = topology.parse(run.topology) if run.topology else this_machine()
    mesh, _ = plan.mesh_of(run.full, machine)
    needed = memory.of(layout.of(run.full, mesh), machine)
    term, size = needed.tightest
    reason = f"{machine.name}, mesh {mesh}; most of it {term}, {_gib(size)}"
    if not needed.fits and not run.topology:
        reason += "; --topology=NAME plans for the machine that the run is for"
    return judged(needed.fits, _gib(needed.peak), _gib(needed.available), reason)


def this_machine() -> Topology:
    """The devices of this process with their memory; of what they compute nothing is known."""
    platform, devices = jax.default_backend(), jax.device_count()
    bytes_of_one = auto_mesh.device_memory()
    # A runtime that reports a limit reports what a program gets; a machine shares its memory.
    usable = MEMORY if platform == "cpu" else 1.0
    unknown = dict.fromkeys(("bf16", "float32", "hbm_rate", "link_rate", "network_rate"), 1.0)
    chip = Chip(
        CPU if platform == "cpu" else platform,
        hbm_bytes=bytes_of_one,
        usable=usable,
        per_host=jax.local_device_count(),
        torus=2 if platform == "tpu" else 0,
        largest=devices,
        **unknown,
    )
    return Topology(f"this machine ({platform})", chip, devices)


def check_disk(run: ReducedRun) -> Finding:
    """The checkpoints of the real run fit onto the disk of its directory."""
    folder = _existing(run.workdir)
    one = plan.MeshShape(1, 1, 1).rules()
    described = abstract_run.describe(run.full, one)
    weights = tree.nbytes((described.state.trainable, described.frozen.adapter))
    optimizer = tree.nbytes(described.state.opt_state)
    # Those that are kept, one that is being written, and the best, which has no optimizer.
    count = run.full.checkpoint.keep + 1
    needed = count * (weights + optimizer) + (weights if run.full.checkpoint.best else 0)
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    reason = f"{count} checkpoints and the best one, in {folder}"
    if not writable:
        reason = f"{folder} cannot be written"
    return judged(writable and needed <= free, _gib(needed), f"{_gib(free)} free", reason)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _gib(size: float | int) -> str:
    return f"{size / GIB:.3g} GiB"
