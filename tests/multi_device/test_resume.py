"""Two processes of four devices through the real `main`: what a run that lost a process, or was
asked to stop, is once it has resumed."""

import shutil
import signal
import socket
import time

import numpy as np
import pytest
from multi_device.processes import Start

from lfl_jax.proofs.resume import losses, saved

pytestmark = pytest.mark.slow

STEPS = 24
# A mesh that splits batch and weights over both processes; dropout, whose draws must go on as well.
FIELDS = {
    "data.seq_len": 256,
    "train.batch": 8,
    "data.streams": 2,  # one for each process
    "train.steps": STEPS,
    "adapter.dropout": 0.1,
    "mesh.data": 2,
    "mesh.fsdp": 4,
    "checkpoint.every": 2,
    "eval.tasks": "()",
    "eval.every_tasks": "()",
    "eval.every": 4,  # when they also ask each other whether to stop
    "eval.rows": 8,
    "eval.decontaminate": False,
    "log.tensorboard": False,
}


# Process 0 alone finds its programs in the cache. The other would compile while it waits in Gloo,
# which gives up after 30 s: on a busy machine that ended runs.
VARIABLES = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


def flags(workdir, words="smoke", **fields):
    given = {f"config.{name}": value for name, value in (FIELDS | fields).items()}
    return {"config": f"configs/math_ift.py:{words}", "workdir": workdir} | given


def run(workdir, count=2, **fields):
    with Start(workdir.parent, count, variables=VARIABLES, **flags(workdir, **fields)) as start:
        start.ends(900)
        assert [process.returncode for process in start.processes] == [0] * count, start.ends()


def interrupted(workdir, number, step, victim):
    """(exit codes, stderr) of both processes when one gets a signal after the checkpoint of a step,
    and the seconds until both have ended."""
    with Start(workdir.parent, 2, variables=VARIABLES, **flags(workdir)) as start:
        while not any(
            (workdir / "checkpoints" / str(after)).exists() for after in (step, step + 2)
        ):
            assert start.processes[0].poll() is None, start.ends(10)
            time.sleep(0.02)
        start.processes[victim].send_signal(number)
        signalled = time.monotonic()
        ends = start.ends(300)
        seconds = time.monotonic() - signalled
    assert not (workdir / "checkpoints" / str(STEPS)).exists(), "it was too late"
    return [code for code, _, _ in ends], [err for _, _, err in ends], seconds


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: run directory}, and how the interruptions ended.

    "disturbed" lost process 1, then process 0, and was then asked to stop; from there on "stopped"
    is copied, which others resume.
    """
    folder = tmp_path_factory.mktemp("resume")
    disturbed, stopped = folder / "disturbed", folder / "stopped"
    ends = [
        interrupted(disturbed, signal.SIGKILL, 2, victim=1),
        interrupted(disturbed, signal.SIGKILL, 6, victim=0),
        interrupted(disturbed, signal.SIGTERM, 10, victim=1),
    ]
    shutil.copytree(disturbed, stopped)
    run(disturbed)
    run(folder / "undisturbed")
    return folder, ends


def test_whoever_remains_ends_with_a_line(runs):
    (_, ((killed_1, err_1, seconds_1), (killed_0, err_0, seconds_0), (stopped, _, _))) = runs
    assert killed_1 == [1, -signal.SIGKILL]
    assert f"error: process 1 of 2 (host {socket.gethostname()}) was killed" in err_1[0]
    assert "the same command resumes" in err_1[0]
    assert max(seconds_1, seconds_0) < 60
    # jax may end it first, with its own words
    assert killed_0[0] == -signal.SIGKILL and killed_0[1] != 0
    assert "Traceback" not in err_1[0] + err_0[1]
    assert stopped == [130, 130], "both saved"


def test_a_run_that_was_killed_twice_and_stopped_is_undisturbed_bit_for_bit(runs):
    folder, _ = runs
    found, wanted = losses(folder / "disturbed"), losses(folder / "undisturbed")
    assert list(wanted) == list(range(1, STEPS + 1)) and found == wanted
    found, wanted = (saved(folder / name, STEPS) for name in ("disturbed", "undisturbed"))
    assert found.keys() == wanted.keys() and len(wanted) > 20
    for path, x in wanted.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)


@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 4, 2)])
def test_it_resumes_as_one_process_on_another_mesh_to_rounding(runs, mesh):
    folder, _ = runs
    workdir = folder / f"one process {mesh}"
    shutil.copytree(folder / "stopped", workdir)
    sizes = dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), mesh, strict=True))
    run(workdir, count=1, **sizes)
    found, wanted = losses(workdir), losses(folder / "undisturbed")
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-4)
    found, wanted = saved(workdir, STEPS), saved(folder / "undisturbed", STEPS)
    for path, x in wanted.items():
        np.testing.assert_allclose(found[path], x, rtol=1e-2, atol=1e-3, err_msg=path)
