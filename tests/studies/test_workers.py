"""Processes that share work: every task is done once, by whoever is free; an end is never lost."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import pytest

from lfl_jax.errors import UserError
from lfl_jax.studies.running import workers
from lfl_jax.studies.running.workers import Died

# At module level, as what another process does has to be found by its name.


def do(task):
    """(the task, the cores and the threads of XLA that it had); some tasks end the process."""
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    cores = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
    return task, set.union(*cores), len(jax.devices())


def wait_for_the_signal(folder):
    """None once it is asked to stop, as a run that saves first; the file says that it began."""
    from lfl_jax.io.interrupt import interrupts

    with interrupts() as stop:
        (Path(folder) / f"{os.getpid()}.began").touch()
        while not stop.requested:
            time.sleep(0.01)
    (Path(folder) / f"{os.getpid()}.saved").touch()


needs_two = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="two cores"
)


@needs_two
def test_tasks_are_shared_and_a_death_is_the_end_of_one():
    tasks = ["a", "b", "last", "killed"]

    def is_ready(task, unfinished):
        return task != "last" or not {"a", "b"} & set(unfinished)

    ended = dict(workers.share(tasks, do, 2, is_ready))
    assert set(ended) == set(tasks) and ended["killed"] == Died(-9)
    assert "exit code -9; is there memory" in str(ended["killed"])
    order = list(ended)
    assert order.index("last") > max(order.index("a"), order.index("b"))
    mine = sorted(os.sched_getaffinity(0))
    # Every thread of a process has that process's cores; between them they have all.
    assert [ended[task][0] for task in ("a", "b", "last")] == ["a", "b", "last"]
    assert {len(ended[task][1]) for task in ("a", "b")} <= {len(mine) // 2, -(-len(mine) // 2)}


@pytest.fixture
def sharing(tmp_path):
    """A process that shares three tasks among two others, once both have begun."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_workers import wait_for_the_signal
            from lfl_jax.studies.running import workers
            if __name__ == "__main__":
                print(list(workers.share([{str(tmp_path)!r}] * 3, wait_for_the_signal, 2)))
        """)
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*.began"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()


@needs_two
def test_ctrl_c_stops_all_after_they_saved(sharing, tmp_path):
    sharing.send_signal(signal.SIGINT)
    out, _ = sharing.communicate(timeout=60)
    assert out.count("None") == 2 and len(list(tmp_path.glob("*.saved"))) == 2


@needs_two
@pytest.mark.slow
def test_kill_9_leaves_no_process_behind(sharing, tmp_path):
    pids = [int(file.stem) for file in tmp_path.glob("*.began")]
    sharing.kill()
    sharing.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a worker outlives the process that it works for"
        time.sleep(0.05)


def test_more_processes_than_cores_are_refused():
    with pytest.raises(UserError, match=r"--jobs=0: expected 1 to"):
        workers.cores_of(0)
    with pytest.raises(UserError, match=r"--jobs=100000: expected 1 to"):
        workers.cores_of(100_000)
    dealt = workers.cores_of(1)
    assert len(dealt) == 1
