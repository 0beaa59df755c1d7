"""How a process learns about the others of its run, and joins them.

A process needs three facts: where process 0 is, how many processes there are, and which one it is.
Flags come first, then environment variables (ours, torchrun's); what both leave open, jax asks of
the cluster it knows (Slurm, Open MPI, a TPU pod).
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax

from lfl_jax.config.command_line import DISTRIBUTED
from lfl_jax.core.lifeline import Lifeline
from lfl_jax.errors import UserError

log = logging.getLogger(__name__)

# jax ends the other processes this long after one fell silent; a lifeline is faster
HEARTBEAT_SECONDS = 50

# The variables that tell a process each fact; the first that is set counts: ours, then torchrun's.
VARIABLES = {
    "coordinator": ("LFL_COORDINATOR",),
    "processes": ("LFL_PROCESSES", "WORLD_SIZE"),
    "process_id": ("LFL_PROCESS_ID", "RANK"),
}
# How many processes the launcher started on this host, and which of them this one is.
LOCAL = (
    ("LOCAL_WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("SLURM_STEP_TASKS_PER_NODE", "SLURM_LOCALID"),
)
# How many processes a launcher started with this command: ours, torchrun's, srun's (of a step, not
# of the batch script, which runs once), Open MPI's.
STARTED = ("LFL_PROCESSES", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class Membership:
    """What a process must know to join the others; None is for jax to ask of the cluster."""

    coordinator: str | None  # HOST:PORT of process 0
    processes: int | None
    process_id: int | None


def is_distributed(options: Mapping[str, bool | int | str]) -> bool:
    """Whether any flag of `command_line.DISTRIBUTED` was given."""
    return any(options[name] != default for name, (default, _) in DISTRIBUTED.items())


def require_one(command: str, words: Sequence[str]) -> None:
    """UserError where this command line, or its launcher, starts several processes.

    For commands that run in one: several would write the same files.
    """
    flags = [word for word in words if word.partition("=")[0].removeprefix("--") in DISTRIBUTED]
    several = [name for name in STARTED if os.environ.get(name, "1") not in ("", "0", "1")]
    evidence = flags + [f"{name}={os.environ[name]}" for name in several]
    if jax.distributed.is_initialized():
        evidence.append(f"jax has {jax.process_count()}")
    if evidence:
        raise UserError(
            f"{command} runs in one process, also on a run that several trained ({evidence[0]}):"
            " start it once, on one host"
        )


def start(options: Mapping[str, bool | int | str]) -> Lifeline:
    """Join the other processes; UserError where that cannot be done."""
    member = _membership(options)
    _check(member)
    is_complete = None not in asdict(member).values()

    # It would take SIGTERM for itself; io.interrupt does that where a run can be saved.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            member.coordinator,
            member.processes,
            member.process_id,
            local_device_ids=_local_devices(),
            # jax would otherwise still ask a cluster, and find another job's facts
            cluster_detection_method="deactivate" if is_complete else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise _refusal(member, error) from error
    return _lifeline()


def _membership(options: Mapping[str, bool | int | str]) -> Membership:
    facts = {name: _fact(name, options) for name in VARIABLES}
    if facts["coordinator"] is None and "MASTER_ADDR" in os.environ:
        # torchrun's own store has MASTER_PORT; the next one is free
        port = int(os.environ.get("MASTER_PORT", 29500)) + 1
        facts["coordinator"] = f"{os.environ['MASTER_ADDR']}:{port}"
    return Membership(**facts)


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


def _check(member: Membership) -> None:
    if member.coordinator is not None and not re.fullmatch(r".+:\d+", member.coordinator):
        raise UserError(
            f"--coordinator={member.coordinator}: expected HOST:PORT of process 0, for example"
            " 10.0.0.1:8476"
        )
    count, process = member.processes, member.process_id
    if count is not None and process is not None and not 0 <= process < count:
        raise UserError(
            f"--process_id={process} of --processes={count}: ids go from 0 to {count - 1}"
        )


def _refusal(member: Membership, error: Exception) -> UserError:
    """The error of a process that could not join, with what is missing if anything is."""
    missing = [f"--{name}" for name, value in asdict(member).items() if value is None]
    if missing and isinstance(error, ValueError):
        variables = ", ".join(names[0] for names in VARIABLES.values())
        return UserError(
            "--distributed: no cluster (Slurm, Open MPI, a TPU pod) tells this process about the"
            f" others; also give {', '.join(missing)}, for example --coordinator=HOST:PORT"
            f" --processes=2 --process_id=0, or set {variables}"
        )
    return UserError(
        f"--distributed: process {member.process_id} of {member.processes} could not join the"
        f" others at {member.coordinator}: {one_line(error)[:300]}"
    )


def one_line(error: BaseException) -> str:
    """An error's text in one line; its class where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def _local_devices() -> list[int] | None:
    """Which of the host's devices are this process's: [] is all of them, None lets jax decide.

    Left to itself jax gives a process of Slurm or Open MPI one GPU, though it is the only one on a
    host with eight.
    """
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
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


def _lifeline() -> Lifeline:
    """A lifeline to process 0, whose address goes through the coordination service."""
    from jax._src import distributed

    client, state = coordination_client(), distributed.global_state
    key, process, count = "lfl_jax/lifeline", state.process_id, state.num_processes
    if process == 0:
        lifeline = Lifeline.listen(count)
        client.key_value_set(key, f"{lifeline.port} {lifeline.secret}")
        return lifeline

    host = state.coordinator_address.rpartition(":")[0].strip("[]")  # of an IPv6 address
    port, secret = client.blocking_key_value_get(key, 60_000).split()
    lifeline = Lifeline.connect(host, int(port), secret, process, count)
    if not lifeline.connected:
        log.warning(
            "process %d cannot reach process 0 at %s:%s: should one die, the others end after %d s"
            " with jax's message",
            *(process, host, port, HEARTBEAT_SECONDS),
        )
    return lifeline
