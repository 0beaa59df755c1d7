"""The lock of a run directory: one holder, named to others; taken over from the dead, wherever they
were."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lfl_jax.configs import math_ift

from lfl_jax import evaluate, train
from lfl_jax.config import Config
from lfl_jax.errors import UserError
from lfl_jax.io import lock
from lfl_jax.io.lock import LOCK_FILE, DirectoryLock

NAMES = ("host", "pid", "user", "started", "machine", "process_started")
OUTSIDE = json.dumps(dict.fromkeys(NAMES, "x") | {"token": "/../../x"})
HOLD = """
import sys, time
from lfl_jax.io.lock import DirectoryLock
with DirectoryLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder_elsewhere(directory: Path, seconds_ago: float, **changes: object) -> None:
    """A lock as another machine's process left it."""
    record = dataclasses.asdict(lock._this_process()) | {
        "host": "node7",
        "machine": "node7 boot",
        "token": "t0",
    }
    path = directory / LOCK_FILE
    path.write_text(json.dumps(record | changes))
    os.utime(path, (time.time() - seconds_ago,) * 2)


def start(directory: Path, seconds: float = 60) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), str(seconds)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    with (
        DirectoryLock(tmp_path / "run"),
        pytest.raises(UserError) as refused,
        DirectoryLock(tmp_path / "run"),
    ):
        pass
    assert f"process {os.getpid()}, since 20" in str(
        refused.value
    ) and f"{tmp_path}/run is in use by" in str(refused.value)
    assert os.listdir(tmp_path / "run") == [], "nothing stays behind"
    with DirectoryLock(tmp_path / "run"):
        assert os.listdir(tmp_path / "run") == [LOCK_FILE]


def test_a_killed_holder_is_replaced_at_once(tmp_path: Path) -> None:
    process = start(tmp_path)
    with pytest.raises(UserError, match=f"process {process.pid}"), DirectoryLock(tmp_path):
        pass
    process.kill()
    # Dead, but not yet waited for by its parent: a zombie trains nothing.
    time.sleep(0.2)
    with DirectoryLock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    process.wait()
    process.stdout.close()
    assert os.listdir(tmp_path) == []


def test_a_pid_that_is_used_again_does_not_hold_it(tmp_path: Path) -> None:
    here = lock._this_process()
    holder_elsewhere(tmp_path, 0, host=here.host, machine=here.machine, process_started="1")
    with DirectoryLock(tmp_path):
        assert (
            json.loads((tmp_path / LOCK_FILE).read_text())["process_started"]
            == here.process_started
        )


def test_elsewhere_the_heartbeat_decides(tmp_path: Path) -> None:
    holder_elsewhere(tmp_path, lock.STALE_SECONDS - 30)
    with pytest.raises(UserError, match="on node7"), DirectoryLock(tmp_path):
        pass
    holder_elsewhere(tmp_path, lock.STALE_SECONDS + 30)
    with DirectoryLock(tmp_path):
        pass


def test_the_holder_renews_it_and_notices_that_it_lost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    with DirectoryLock(tmp_path) as held:
        os.utime(tmp_path / LOCK_FILE, (0, 0))
        time.sleep(0.5)
        assert (tmp_path / LOCK_FILE).stat().st_mtime > 1e9
        held.check()
        holder_elsewhere(tmp_path, 0)
        time.sleep(0.5)
        with pytest.raises(UserError, match="taken over by another process .*node7"):
            held.check()
    assert (tmp_path / LOCK_FILE).exists(), "it is the other one's"


@pytest.mark.parametrize("links", [True, False])
def test_of_many_that_find_a_dead_holder_one_gets_it(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(
            os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported"))
        )

    def attempt(_: int) -> DirectoryLock | None:
        try:
            return DirectoryLock(tmp_path).__enter__()
        except UserError:
            return None

    for _ in range(20):
        holder_elsewhere(tmp_path, 1000)
        with ThreadPoolExecutor(8) as pool:
            got = [held for held in pool.map(attempt, range(8)) if held is not None]
        assert len(got) == 1
        got[0].__exit__(None, None, None)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}', OUTSIDE])
def test_a_damaged_lock_is_no_lock(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK_FILE).write_text(text)
    os.utime(tmp_path / LOCK_FILE, (time.time() - 600,) * 2)
    with DirectoryLock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_directory_that_takes_no_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot write to .*file/run"),
        DirectoryLock(tmp_path / "file" / "run"),
    ):
        pass


def test_a_run_and_an_evaluation_lock_their_directories(tmp_path: Path) -> None:
    c = math_ift.get_config("smoke")
    c.train.steps = 1
    with DirectoryLock(tmp_path), pytest.raises(UserError, match="is in use by"):
        train.run(train.Run(Config.from_dict(c), tmp_path))
    assert not (tmp_path / "config.json").exists()
    with DirectoryLock(tmp_path), pytest.raises(UserError, match="is in use by"):
        evaluate.main(["evaluate", "--config=configs/math_ift.py:smoke", f"--out={tmp_path}"])
