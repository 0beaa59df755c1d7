"""The processes of one run, one per host: how they start together, agree on values, and read whole
arrays.

Everything here is the identity in a single process. Values travel through jax's coordination
service, not through
devices and not through files: it needs no shared file system, compiles nothing and does not wait
for a step.
"""

import itertools
import logging
import os
import pickle
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from lfl_jax.config.command_line import DISTRIBUTED
from lfl_jax.core.lifeline import Lifeline
from lfl_jax.errors import UserError, exit_code, report

log = logging.getLogger(__name__)

# jax ends the others this long after a process fell silent; a lifeline is faster
HEARTBEAT_SECONDS = 50
# others may wait as long for process 0; who dies meanwhile ends them all
PATIENCE_MS = 7 * 24 * 3600 * 1000

# What a process must know, and the variables that tell it, the first that is set: ours, then
# torchrun's.
VARIABLES = {
    "coordinator": ("LFL_COORDINATOR",),
    "processes": ("LFL_PROCESSES", "WORLD_SIZE"),
    "process_id": ("LFL_PROCESS_ID", "RANK"),
}
# How many processes the launcher put on this host, and which of them this one is.
LOCAL = (
    ("LOCAL_WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("SLURM_STEP_TASKS_PER_NODE", "SLURM_LOCALID"),
)
# How many processes a launcher started with this command: ours, torchrun's, srun's (of a step, not
# of the batch script, which runs once), Open MPI's.
STARTED = ("LFL_PROCESSES", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")

# of the exchanges; every process makes the same ones in the same order
_numbers = itertools.count()


def is_first() -> bool:
    """Whether this is the process that writes files and prints tables."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Every process's value, in the order of the processes. Collective: all of them call it, and
    all wait."""
    if jax.process_count() == 1:
        return [value]
    client, name = _client(), f"lfl_jax/exchange/{next(_numbers)}"
    client.key_value_set_bytes(f"{name}/{jax.process_index()}", pickle.dumps(value))
    client.wait_at_barrier(f"{name}/written", PATIENCE_MS)
    found = {
        int(key.rpartition("/")[2]): data for key, data in client.key_value_dir_get_bytes(name)
    }
    client.wait_at_barrier(f"{name}/read", PATIENCE_MS)
    if is_first():
        client.key_value_delete(f"{name}/")
    return [pickle.loads(found[process]) for process in range(jax.process_count())]


def agree(value: Any) -> Any:
    """Process 0's value on every process. Collective."""
    return gather(value if is_first() else None)[0]


def require_same(values: Mapping[str, Any]) -> None:
    """UserError on a process whose values are not process 0's: else the processes would wait for
    each other forever.

    Collective.
    """
    wanted = agree(dict(values))
    different = [
        f"{name} is {values[name]}, there {wanted[name]}"
        for name in values
        if values[name] != wanted[name]
    ]
    if different:
        raise UserError(
            f"process {jax.process_index()} does not do what process 0 does:"
            f" {'; '.join(different)}. Every host needs"
            " the same command, package, data and weights"
        )


def whole(x: Shaped[jax.Array, "..."]) -> Shaped[np.ndarray, "..."]:
    """An array on every process, whatever part of it is here. Collective for one that is spread
    over processes."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(x, tiled=True)


def place(
    x: Shaped[np.ndarray, "..."], sharding: jax.sharding.Sharding
) -> Shaped[jax.Array, "..."]:
    """An array that every process holds whole, on the devices. (device_put would first compare the
    hosts' copies.)"""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


@contextmanager
def together(options: Mapping[str, Any]) -> Iterator[None]:
    """Inside, this process is one of those that `command_line.DISTRIBUTED`, `VARIABLES` or a
    cluster name; else alone.

    They end together: what one of them raises is reported by it and, within seconds, ends the
    others with a line. UserError when nothing says how many there are.
    """
    if not _asked(options):
        yield
        return
    lifeline = _start(options)
    try:
        yield
        gather(None)  # nobody leaves while another still writes
        lifeline.done()
    except SystemExit:  # they agreed to stop
        lifeline.done()
        raise
    except BaseException as error:
        if exit_code(error) is None:
            lifeline.await_verdict()  # a broken collective is the trace of another's end
            traceback.print_exc()
        report(error)
        lifeline.fail(_said(error), exit_code(error) or 1)


def require_one(command: str, words: Sequence[str]) -> None:
    """UserError where this command line, or its launcher, starts it as one of several processes:
    all would write."""
    flags = [word for word in words if word.partition("=")[0].removeprefix("--") in DISTRIBUTED]
    started = [
        f"{name}={os.environ[name]}"
        for name in STARTED
        if os.environ.get(name, "1") not in ("", "0", "1")
    ]
    asked = (
        flags
        or started
        or ([f"jax has {jax.process_count()}"] if jax.distributed.is_initialized() else [])
    )
    if asked:
        raise UserError(
            f"{command} runs in one process, also on a run that several trained ({asked[0]}):"
            " start it once, on one host"
        )


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _asked(options: Mapping[str, Any]) -> bool:
    return any(options[name] != default for name, (default, _) in DISTRIBUTED.items())


def _start(options: Mapping[str, Any]) -> Lifeline:
    """Join the others, or UserError."""
    given = {name: _given(name, options) for name in VARIABLES}
    # torchrun's own store has MASTER_PORT
    if given["coordinator"] is None and "MASTER_ADDR" in os.environ:
        given["coordinator"] = (
            f"{os.environ['MASTER_ADDR']}:{int(os.environ.get('MASTER_PORT', 29500)) + 1}"
        )
    _check(given)
    # It would take SIGTERM for itself; io.interrupt does that where a run can be saved.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            given["coordinator"],
            given["processes"],
            given["process_id"],
            local_device_ids=_local_devices(),
            cluster_detection_method="deactivate" if None not in given.values() else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise _refusal(given, error) from error
    return _lifeline()


def _given(name: str, options: Mapping[str, Any]) -> Any:
    """A flag's value, else a variable's; None where neither is there."""
    default = DISTRIBUTED[name][0]
    if options[name] != default:
        return options[name]
    found = [
        (variable, os.environ[variable]) for variable in VARIABLES[name] if os.environ.get(variable)
    ]
    if not found:
        return None
    variable, text = found[0]
    if isinstance(default, int) and not text.isdecimal():
        raise UserError(f"{variable}={text!r}: expected a number")
    return type(default)(text)


def _check(given: Mapping[str, Any]) -> None:
    coordinator, count, process = given["coordinator"], given["processes"], given["process_id"]
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(
            f"--coordinator={coordinator}: expected HOST:PORT of process 0, for example"
            " 10.0.0.1:8476"
        )
    if count is not None and process is not None and not 0 <= process < count:
        raise UserError(
            f"--process_id={process} of --processes={count}: ids go from 0 to {count - 1}"
        )


def _refusal(given: Mapping[str, Any], error: Exception) -> UserError:
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing and isinstance(error, ValueError):
        variables = ", ".join(names[0] for names in VARIABLES.values())
        return UserError(
            "--distributed: no cluster (Slurm, Open MPI, a TPU pod) tells this process about the"
            " others; also give"
            f" {', '.join(missing)}, for example --coordinator=HOST:PORT --processes=2"
            " --process_id=0,"
            f" or set {variables}"
        )
    return UserError(
        f"--distributed: process {given['process_id']} of {given['processes']} could not join the"
        " others at"
        f" {given['coordinator']}: {_said(error)[:300]}"
    )


def _local_devices() -> list[int] | None:
    """[]: all devices of the host, where its launcher started one process there. None: jax decides.

    Left to itself jax gives a process of Slurm or Open MPI one GPU, though it is the only one on a
    host with eight.
    """
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    for count, rank in LOCAL:
        if count in os.environ:
            alone = re.fullmatch(r"1(\(x\d+\))?", os.environ[count])
            return [] if alone else [int(os.environ[rank])] if count == "LOCAL_WORLD_SIZE" else None
    return None


def _client() -> Any:
    """jax's client of its coordination service, which has no public name (orbax uses it under this
    one, too)."""
    from jax._src import distributed

    return distributed.global_state.client


def _lifeline() -> Lifeline:
    """Connected to process 0, whose address goes through the coordination service."""
    from jax._src import distributed

    client, process, count = (
        _client(),
        distributed.global_state.process_id,
        distributed.global_state.num_processes,
    )
    key = "lfl_jax/lifeline"
    if process == 0:
        lifeline = Lifeline.listen(count)
        client.key_value_set(key, f"{lifeline.port} {lifeline.secret}")
        return lifeline
    host = distributed.global_state.coordinator_address.rpartition(":")[0].strip("[]")
    port, secret = client.blocking_key_value_get(key, 60_000).split()
    lifeline = Lifeline.connect(host, int(port), secret, process, count)
    if not lifeline.connected:
        log.warning(
            "process %d cannot reach process 0 at %s:%s: should one die, the others end after %d s"
            " with jax's message",
            *(process, host, port, HEARTBEAT_SECONDS),
        )
    return lifeline
