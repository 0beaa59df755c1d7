"""Processes that share work: each has cores of its own, and gets the next task when it is free.

    for task, result in workers.share(tasks, do, jobs=2):
        ...

Nothing on disk says who does what. The process that shares out hears how each task ended; the
others end when it ends, even by kill -9, and what a task left on disk is what the next start needs.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

import jax

from lfl_jax.errors import UserError
from lfl_jax.io.interrupt import Stop, interrupts

T, R = TypeVar("T"), TypeVar("R")

# Read by numpy's OpenBLAS when it is imported.
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
# Between two questions whether this process was asked to stop.
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Died:
    """The result of a task whose process ended without one; code: negative for a signal."""

    code: int

    def __str__(self) -> str:
        # Linux's answer to a machine without memory is SIGKILL.
        hint = "; is there memory for so many runs at once?" if self.code == -signal.SIGKILL else ""
        return f"its process ended with exit code {self.code}{hint}"


@dataclass(eq=False)
class _Worker(Generic[T, R]):
    """A process and its cores; task: what it does now, if anything."""

    do: Callable[[T], R]
    cores: frozenset[int]
    process: BaseProcess | None = None
    connection: Connection | None = None
    task: T | None = None

    def give(self, task: T) -> None:
        """Hand it a task; its process is started for the first one, and where it died."""
        if self.process is None:
            self._start()
        self.task = task
        # A process that died in the meantime is heard of as the end of this task.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(task)

    def _start(self) -> None:
        # spawn: a fork would copy locks of jax's threads in the state of that moment.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, self.do, self.cores)
        self.process = context.Process(target=_serve, args=arguments, name="study worker")
        # A terminal's Ctrl-C goes to all of its processes; only the first is to act on it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            with _blas_threads(len(self.cores)):
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        # Its end is then seen here as the end of the connection.
        theirs.close()

    def result(self) -> R | Died:
        """Wait for the result of its task, and forget the task."""
        self.task = None
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code, self.process = self.process.exitcode, None
            return Died(code)

    def end(self) -> None:
        """End its process: at once where it has a task, else when it hears of it."""
        if self.process is not None:
            self.connection.close()
            if self.task is not None:
                self.process.kill()
            self.process.join()


def cores_of(jobs: int) -> list[frozenset[int]]:
    """The cores that this process may use, dealt out to so many; UserError where there are fewer.

    Empty sets on a system that cannot say which core a process uses.
    """
    is_known = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if is_known else list(range(os.cpu_count() or 1))
    if not 1 <= jobs <= len(cores):
        raise UserError(
            f"--jobs={jobs}: expected 1 to {len(cores)}, the cores that this process may use"
        )
    if jobs > 1 and jax.default_backend() != "cpu":
        raise UserError(
            f"--jobs={jobs}: processes share the cores of a CPU; here is a"
            f" {jax.default_backend()}, of which one process takes all: leave --jobs out"
        )
    return [frozenset(cores[index::jobs] if is_known else ()) for index in range(jobs)]


def share(
    tasks: Sequence[T],
    do: Callable[[T], R | None],
    jobs: int,
    is_ready: Callable[[T, Sequence[T]], bool] = lambda task, unfinished: True,
) -> Iterator[tuple[T, R | Died | None]]:
    """(task, its result) in the order in which they end; None for a task that was stopped.

    do: called in another process, so that it and the tasks have to be picklable; asked to stop
    (SIGTERM) it returns None. After Ctrl-C or SIGTERM here, or a None, no further task begins and
    the others are asked to stop; a second Ctrl-C kills them. is_ready: whether a task may begin
    while those are unfinished.
    """
    left = list(tasks)
    workers = [_Worker(do, cores) for cores in cores_of(jobs)]
    try:
        with interrupts() as stop:
            while True:
                if not stop.requested:
                    _hand_out(left, workers, is_ready)
                busy = [worker for worker in workers if worker.task is not None]
                if not busy:
                    return
                for worker in _wait(busy, stop):
                    task, result = worker.task, worker.result()
                    # One that was loading when it was asked to stop just ended.
                    if stop.requested and isinstance(result, Died):
                        result = None
                    stop.requested |= result is None
                    yield task, result
    finally:
        for worker in workers:
            worker.end()


def _hand_out(
    left: list[T], workers: Sequence[_Worker], is_ready: Callable[[T, Sequence[T]], bool]
) -> None:
    """Give every free worker the first task that is ready, and take it off the list."""
    for worker in workers:
        unfinished = [*left, *(other.task for other in workers if other.task is not None)]
        ready = next((task for task in left if is_ready(task, unfinished)), None)
        if worker.task is None and ready is not None:
            left.remove(ready)
            worker.give(ready)


def _wait(busy: Sequence[_Worker], stop: Stop) -> list[_Worker]:
    """The workers of which a task has ended; asks all to stop when this process is asked."""
    by_connection = {worker.connection: worker for worker in busy}
    is_told = False
    while True:
        if stop.requested and not is_told:
            is_told = True
            for worker in busy:
                worker.process.terminate()
        ended = wait(by_connection, POLL_SECONDS)
        if ended:
            return [by_connection[connection] for connection in ended]


def _serve(connection: Connection, do: Callable[[T], R], cores: frozenset[int]) -> None:
    """The life of a worker: a task, its result, the next task."""
    threading.Thread(target=_end_with_parent, daemon=True, name="end with parent").start()
    _use(cores)
    # The end of the connection is the end of the work.
    with contextlib.suppress(EOFError):
        while True:
            connection.send(do(connection.recv()))


@contextlib.contextmanager
def _blas_threads(count: int) -> Iterator[None]:
    """For processes that are started meanwhile; 0 leaves it to numpy.

    Its BLAS has a thread for every core of the machine. On fewer cores they wait for one another in
    loops, and a decomposition of a small matrix takes a hundred times as long.
    """
    before = os.environ.get(BLAS_THREADS)
    if not count or before is not None:
        yield
        return
    os.environ[BLAS_THREADS] = str(count)
    try:
        yield
    finally:
        del os.environ[BLAS_THREADS]


def _use(cores: frozenset[int]) -> None:
    """Use these cores only, by as many threads as without.

    XLA splits some sums over its threads, so that results depend on their number: they are made for
    all cores first, and then share fewer. It costs about 3 % of a step's CPU time.
    """
    jax.devices()
    for thread in os.listdir("/proc/self/task") if cores else ():
        # A thread may have ended since it was listed.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    # Nobody is left to hear of the task; what it wrote is whole whenever it ends.
    os._exit(1)
