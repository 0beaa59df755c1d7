"""The processes of one run, one per host: values that all know, arrays that span them.

For a reader who has not used `jax.distributed`:

* Every host runs the same command. `joined` connects its process to a coordination service, which
  runs in process 0. From then on jax.devices() lists the devices of all hosts.
* Arrays are global. A process has only the shards on its own devices; `to_numpy` reads the others.
* A jitted function of such arrays is a collective: every process must call it, in the same order.
  A process that does something else makes the others wait forever. So whatever decides what comes
  next is agreed on first (`agree`, `require_same`).
* Python values are each process's own. `gather` exchanges them through the coordination service,
  and not through devices or files: it needs no shared file system, compiles nothing, and does not
  wait for a training step.
* A process that dies leaves the others in a collective that cannot finish. `lifeline` ends them.

In a single process everything here is the identity.
"""

import itertools
import pickle
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Shaped

from lfl_jax.core import cluster
from lfl_jax.errors import UserError, exit_code, report

T = TypeVar("T")

# Others may wait this long for process 0. It may be long, as a process that dies ends them all.
PATIENCE_MS = 7 * 24 * 3600 * 1000

# Each exchange has a name of its own: its number, the same in every process, since all of them make
# the same exchanges in the same order.
_exchange_numbers = itertools.count()


def is_first() -> bool:
    """Whether this is the process that writes files and prints tables."""
    return jax.process_index() == 0


def gather(value: T) -> list[T]:
    """Every process's value, in the order of the processes.

    Collective: every process calls it, and waits for the others.
    """
    if jax.process_count() == 1:
        return [value]
    client, name = cluster.coordination_client(), f"lfl_jax/exchange/{next(_exchange_numbers)}"
    client.key_value_set_bytes(f"{name}/{jax.process_index()}", pickle.dumps(value))
    client.wait_at_barrier(f"{name}/written", PATIENCE_MS)

    # the service lists keys as text: "10" comes before "2"
    values = {}
    for key, data in client.key_value_dir_get_bytes(name):
        values[int(key.rpartition("/")[2])] = pickle.loads(data)

    client.wait_at_barrier(f"{name}/read", PATIENCE_MS)
    if is_first():
        client.key_value_delete(f"{name}/")
    return [values[process] for process in range(jax.process_count())]


def agree(value: T) -> T:
    """Process 0's value on every process. Collective."""
    return gather(value if is_first() else None)[0]


def require_same(values: Mapping[str, object]) -> None:
    """UserError on a process whose values are not process 0's. Collective.

    Otherwise the processes would wait for each other forever.
    """
    expected = agree(dict(values))
    different = [
        f"{name} is {values[name]!r}, there {expected.get(name)!r}"
        for name in values
        if values[name] != expected.get(name)
    ]
    if different:
        raise UserError(
            f"process {jax.process_index()} does not do what process 0 does:"
            f" {'; '.join(different)}. Every host needs the same command, package, data and weights"
        )


def to_numpy(x: Shaped[jax.Array, "..."]) -> Shaped[np.ndarray, "..."]:
    """All of an array, on every process. Collective for one that is sharded over processes."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(x, tiled=True)


def to_devices(
    x: Shaped[np.ndarray, "..."], sharding: jax.sharding.Sharding
) -> Shaped[jax.Array, "..."]:
    """A sharded array from one that every process has all of."""
    # jax.device_put would first compare the hosts' copies, over the network
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def put(x: Shaped[jax.Array, "..."], sharding: jax.sharding.Sharding) -> Shaped[jax.Array, "..."]:
    """The array with this sharding; one that this process has by itself, every process has."""
    if x.is_fully_addressable and not sharding.is_fully_addressable:
        return to_devices(np.asarray(x), sharding)
    return jax.device_put(x, sharding)


@contextmanager
def joined(options: Mapping[str, bool | int | str]) -> Iterator[None]:
    """Inside, this process is one of several, where flags, variables or a cluster say so.

    options: the values of `command_line.DISTRIBUTED`. The processes end together: an error in one
    is reported by it, and within seconds ends the others with a line. UserError when nothing says
    how many there are.
    """
    if not cluster.is_distributed(options):
        yield
        return
    lifeline = cluster.start(options)
    try:
        yield
        gather(None)  # nobody leaves while another still writes
        lifeline.done()
    except SystemExit:  # all of them agreed to stop
        lifeline.done()
        raise
    except BaseException as error:
        if exit_code(error) is None:
            # An error that nobody expected: a collective that broke because another process ended
            # looks like this. Then that process's error is the one to report, and this call ends
            # the process.
            lifeline.wait_for_other_end()
            traceback.print_exc()
        report(error)
        lifeline.fail(cluster.one_line(error), exit_code(error) or 1)
