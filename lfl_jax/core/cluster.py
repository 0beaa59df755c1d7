"""How a process learns about the others of its run, and joins them.

A process needs three facts: where process 0 is, how many processes there are, and which one it is.
Flags come first, then environment variables (ours, torchrun's); what both leave open, jax asks of
the cluster it knows (Slurm, Open MPI, a TPU pod).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from lfl_jax.config.command_line import DISTRIBUTED
from lfl_jax.core import rendezvous
from lfl_jax.core.lifeline import Lifeline
from lfl_jax.errors import UserError

# jax ends the other processes this long after one fell silent; a lifeline is faster
HEARTBEAT_SECONDS = 50

# The variables that tell a process each fact; the first that is set counts: ours, jax's,
# torchrun's.
VARIABLES = {
    "coordinator": ("LFL_COORDINATOR", "JAX_COORDINATOR_ADDRESS"),
    "processes": ("LFL_PROCESSES", "WORLD_SIZE"),
    "process_id": ("LFL_PROCESS_ID", "RANK"),
    "join_timeout": ("LFL_JOIN_TIMEOUT",),
}
# How many processes the launcher started on this host, and which of them this one is.
LOCAL = (
    ("LOCAL_WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("SLURM_STEP_TASKS_PER_NODE", "SLURM_LOCALID"),
)


@dataclass(frozen=True)
class Membership:
    """What a process must know to join the others."""

    coordinator: str  # HOST:PORT of process 0
    processes: int
    process_id: int
    devices: list[int] | None  # of its host: [] all of them, None as jax decides


def is_distributed(options: Mapping[str, bool | int | str]) -> bool:
    """Whether any flag of `command_line.DISTRIBUTED` was given."""
    return any(options[name] != default for name, (default, _) in DISTRIBUTED.items())


def start(options: Mapping[str, bool | int | str]) -> Lifeline:
    """Join the other processes; UserError where that cannot be done in time."""
    seconds = _fact("join_timeout", options) or DISTRIBUTED["join_timeout"][0]
    member = _membership(options, seconds)
    where = (member.coordinator, member.process_id, member.processes)
    lifeline = rendezvous.meet(*where, float(seconds))

    # It would take SIGTERM for itself; io.interrupt does that where a run can be saved.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            member.coordinator,
            member.processes,
            member.process_id,
            local_device_ids=member.devices,
            # jax would otherwise still ask a cluster, and find another job's facts
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError, OSError) as error:
        refusal = UserError(
            f"--distributed: process {member.process_id} of {member.processes} could not join the"
            f" others at {member.coordinator}: {one_line(error)[:300]}"
        )
        lifeline.tell(str(refusal), 2)
        raise refusal from error
    return lifeline


def _membership(options: Mapping[str, bool | int | str], seconds: int) -> Membership:
    """From flags, variables, and the cluster; UserError for what none of them says.

    seconds: for a cluster whose process 0 has no address yet.
    """
    facts = {name: _fact(name, options) for name in ("coordinator", "processes", "process_id")}
    if facts["coordinator"] is None and "MASTER_ADDR" in os.environ:
        # torchrun's own store has MASTER_PORT; the next one is free
        port = int(os.environ.get("MASTER_PORT", 29500)) + 1
        facts["coordinator"] = f"{os.environ['MASTER_ADDR']}:{port}"
    known, devices = tuple(facts.values()), _local_devices()
    _check(*known)
    if None in known:
        *known, devices = _of_cluster(*known, devices, seconds)
    missing = [f"--{name}" for name, value in zip(facts, known, strict=True) if value is None]
    if missing:
        variables = ", ".join(VARIABLES[name][0] for name in facts)
        raise UserError(
            "--distributed: no cluster (Slurm, Open MPI, a TPU pod) tells this process about the"
            f" others; also give {', '.join(missing)}, for example --coordinator=HOST:PORT"
            f" --processes=2 --process_id=0, or set {variables}"
        )
    _check(*known)
    return Membership(*known, devices)


def _of_cluster(
    coordinator: str | None,
    processes: int | None,
    process_id: int | None,
    devices: list[int] | None,
    seconds: int,
) -> tuple:
    """The same facts and devices, with what the cluster that jax knows says in place of None."""
    # It has no public name; jax.distributed.initialize asks it, too, and then waits in silence.
    from jax._src.clusters import ClusterEnv

    facts = (coordinator, processes, process_id, devices)
    try:
        return ClusterEnv.auto_detect_unset_distributed_params(*facts, None, seconds)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"--distributed: the cluster does not say where the others are: {one_line(error)[:300]}"
        ) from error


def _fact(name: str, options: Mapping[str, bool | int | str]) -> int | str | None:
    """A flag's value, else a variable's; None where neither is set."""
    default, _ = DISTRIBUTED[name]
    if options[name] != default:
        return options[name]
    variable = next((x for x in VARIABLES[name] if os.environ.get(x)), None)
    if variable is None:
        return None
    text = os.environ[variable]
    if isinstance(default, int) and not text.isdecimal():
        raise UserError(f"{variable}={text!r}: expected a number")
    return type(default)(text)


def _check(coordinator: str | None, count: int | None, process: int | None) -> None:
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(
            f"--coordinator={coordinator}: expected HOST:PORT of process 0, for example"
            " 10.0.0.1:8476"
        )
    if count is not None and process is not None and not 0 <= process < count:
        raise UserError(
            f"--process_id={process} of --processes={count}: ids go from 0 to {count - 1}"
        )


def one_line(error: BaseException) -> str:
    """An error's text in one line; its class where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def _local_devices() -> list[int] | None:
    """Which of the host's devices are this process's: [] is all of them, None lets jax decide.

    Left to itself jax gives a process of Slurm or Open MPI one GPU, though it is the only one on a
    host with eight.
    """
    chosen = os.environ.get("JAX_LOCAL_DEVICE_IDS")
    if chosen and not re.fullmatch(r"\d+(,\d+)*", chosen):
        raise UserError(f"JAX_LOCAL_DEVICE_IDS={chosen!r}: expected numbers, such as 0,1")
    if chosen:
        return [int(number) for number in chosen.split(",")]
    for count, rank in LOCAL:
        if count in os.environ:
            # Slurm writes 1(x4) for one process on each of four hosts
            if re.fullmatch(r"1(\(x\d+\))?", os.environ[count]):
                return []
            return [int(os.environ[rank])] if count == "LOCAL_WORLD_SIZE" else None
    return None


def coordination_client() -> Any:
    """jaxlib's DistributedRuntimeClient of this process: a key-value store, and barriers."""
    # it has no public name; orbax uses this one, too
    from jax._src import distributed

    return distributed.global_state.client
