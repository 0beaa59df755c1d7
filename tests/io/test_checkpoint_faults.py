"""Checkpoints under strain: nothing leaks, a killed save loads, a full disk is one line."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import save
from jax.sharding import SingleDeviceSharding

from lfl_jax.io.checkpoint import Checkpoints


def descriptors_and_threads() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def saved(checkpoints: Checkpoints, steps: range) -> tuple[int, int]:
    """Descriptors and threads after small saves at these steps."""
    for step in steps:
        save(checkpoints, step, {"adapter": {"x": jnp.ones(3)}}, nll=1.0 / step)
    checkpoints.wait()
    return descriptors_and_threads()


# A save in flight has a few threads of its own; what leaks is counted once a save.
SLACK = 12


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counted in Linux's /proc")
@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_saves_leave_no_descriptors_and_threads_behind(tmp_path: Path, count: int) -> None:
    with Checkpoints(tmp_path, best_metric="nll") as checkpoints:
        first = saved(checkpoints, range(1, 6))
        last = saved(checkpoints, range(6, 6 + count))
    assert all(now <= before + SLACK for now, before in zip(last, first, strict=True)), (
        first,
        last,
    )


def test_saves_leave_no_objects_behind(tmp_path: Path) -> None:
    counts, arrays = [], {f"x{i}": jnp.ones(3) for i in range(40)}
    with Checkpoints(tmp_path, best_metric="nll") as checkpoints:
        for first in (1, 11):
            for step in range(first, first + 10):
                save(checkpoints, step, {"adapter": arrays}, nll=1.0 / step)
            checkpoints.wait()
            gc.collect()
            counts.append((len(gc.get_objects()), sys.getallocatedblocks()))
    (objects, blocks), (objects_after, blocks_after) = counts
    # Of ten saves tensorstore would keep more than twice as many.
    assert objects_after < objects + 100 and blocks_after < blocks + 800, counts


WRITER = """
import sys
import jax, jax.numpy as jnp
from lfl_jax.io.checkpoint import Checkpoints
with Checkpoints(sys.argv[1], keep_latest=2) as checkpoints:
    for step in range(1, 10_000):
        tree = {f"x{i}": jnp.full((64, 1 << 10), step) for i in range(4)}
        state = {"adapter": tree, "optimizer": (jnp.int32(step),)}
        checkpoints.save(step, state, iterator_state={"step": step}, metrics={}, metadata={})
        print(step, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.035])
def test_killed_while_saving_the_last_finished_step_loads(tmp_path: Path, delay: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    while (started := int(writer.stdout.readline())) < 5:
        pass
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    started = max([started, *map(int, writer.stdout.read().split())])
    writer.wait()
    writer.stdout.close()
    here = SingleDeviceSharding(jax.devices()[0])
    x = jax.ShapeDtypeStruct((64, 1 << 10), jnp.int32, sharding=here)
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=here)
    like = {"adapter": {f"x{i}": x for i in range(4)}, "optimizer": (count,)}
    with Checkpoints(tmp_path, keep_latest=2) as checkpoints:
        found = checkpoints.restore(None, like)
        # save waits for the one before it, so at most the last started one is lost.
        assert found.step >= started - 1
        for leaf in jax.tree.leaves(found.state):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, found.step))
        assert found.iterator_states == [{"step": found.step}]
        save(checkpoints, found.step + 1, found.state)
        checkpoints.wait()
        assert sorted(tmp_path.iterdir()) == [
            tmp_path / str(step) for step in (found.step, found.step + 1)
        ]


FILLED = """
import sys
from pathlib import Path
import jax.numpy as jnp
from lfl_jax.errors import UserError
from lfl_jax.io import checkpoint_errors
from lfl_jax.io.checkpoint import Checkpoints, abstract
folder, checkpoint_errors.OVERHEAD = Path(sys.argv[1]), float(sys.argv[2])

def state(step):
    return {"adapter": {"x": jnp.full((64, 1 << 10), step)}, "optimizer": (jnp.int32(step),)}

def save(checkpoints, step):
    checkpoints.save(step, state(step), iterator_state={"step": step}, metrics={}, metadata={})

(folder / "filler").write_bytes(bytes(1 << 20))
try:
    with Checkpoints(folder / "checkpoints", keep_latest=9) as checkpoints:
        for step in range(1, 10):
            save(checkpoints, step)
except UserError as error:
    print(error)
print(sorted(path.name for path in (folder / "checkpoints").iterdir()))
(folder / "filler").unlink()
with Checkpoints(folder / "checkpoints", keep_latest=9) as checkpoints:
    last = checkpoints.latest_step()
    assert int(checkpoints.restore(last, abstract(state(0))).state["optimizer"][0]) == last
    save(checkpoints, last + 1)
    checkpoints.wait()
    print(checkpoints.steps())
"""


def on_a_small_disk(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python on an empty file system of 2 MB, mounted for this process alone."""
    mounted = f'mount -t tmpfs -o size=2m tmpfs {folder} && exec "$@"'
    inside = [
        "unshare",
        "-m",
        "bash",
        "-c",
        mounted,
        "bash",
        sys.executable,
        "-c",
        program,
        str(folder),
    ]
    done = subprocess.run([*inside, *arguments], capture_output=True, text=True, env=os.environ)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("only root mounts a small file system")
    return done


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount namespace")
@pytest.mark.parametrize(
    "overhead", ["1.05", "0"], ids=["noticed before", "noticed by orbax, as with a quota"]
)
def test_a_full_disk_is_one_line_and_leaves_whole_steps_only(tmp_path: Path, overhead: str) -> None:
    done = on_a_small_disk(tmp_path, FILLED, overhead)
    assert done.returncode == 0, done.stderr
    message, left, after = done.stdout.splitlines()
    steps = json.loads(left.replace("'", '"'))
    failed = len(steps) + 1
    expected = f"cannot write checkpoint of step {failed} to {tmp_path}/checkpoints: No space left on device"
    assert message == f"{expected}; make room, then the same command resumes"
    assert steps == [str(step) for step in range(1, failed)] and failed > 1, (
        "nothing half-written stays"
    )
    assert json.loads(after) == list(range(1, failed + 1))
    assert done.stderr == ""
