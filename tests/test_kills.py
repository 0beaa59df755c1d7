"""Killed at any moment and started again, a run is the one that nobody disturbed, bit for bit.

The random kills of whole processes are in kills.py. Here a process is stopped six times, and its
directory copied, which is what kill -9 would have left of it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kills
import pytest

from lfl_jax import main, notices, train
from lfl_jax.config import command_line
from lfl_jax.errors import UserError
from lfl_jax.evals.records import RecordFile
from lfl_jax.report import finished_run, results_json
from lfl_jax.run_setup.shared import Shared
from lfl_jax.train_log import StepLog

SUBJECT = kills.SUBJECTS["lora"]
# Half as many saves as there, which are most of so small a run.
FEW = {"--config.train.steps": 6, "--config.eval.every": 3, "--config.checkpoint.every": 3}
OPTIONS = [option for option in SUBJECT.options if option.partition("=")[0] not in FEW]
OPTIONS += [f"{option}={number}" for option, number in FEW.items()]
COMMAND = [sys.executable, "-m", "lfl_jax.main", *OPTIONS]
COMMAND += ["--config.eval.decontaminate=False", "--config.log.tensorboard=False"]
CONFIG, _ = command_line.parse(COMMAND[2:], main.__doc__, main.FLAGS)
STEPS = CONFIG.train.steps
SHARED = Shared()
MOMENTS = ("evaluation", "training", "saving", "training", "final evaluation", "report")


def run(folder: Path) -> train.Outcome:
    """As the command does it, in this process."""
    with notices.collected() as warnings:
        outcome = train.run(train.Run(CONFIG, folder, quiet=True, shared=SHARED))
    if outcome.finished:
        results_json.save(*finished_run.paired(outcome, warnings, folder), folder)
    return outcome


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(folder).finished
    return folder


@pytest.fixture(scope="module")
def undisturbed(whole: Path) -> dict[str, object]:
    return kills.state_of(whole)


def copy_while_stopped(process: subprocess.Popen, folder: Path, copy: Path) -> None:
    """What a kill at this moment would leave: the kernel has all that was written."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    shutil.copytree(folder, copy)
    process.send_signal(signal.SIGCONT)


def test_six_kills_lose_no_bit(tmp_path: Path, undisturbed: dict[str, object]) -> None:
    folder = tmp_path / "killed"
    process = subprocess.Popen([*COMMAND, f"--workdir={folder}"], stderr=subprocess.DEVNULL)
    copies = [tmp_path / f"{number} {moment}" for number, moment in enumerate(MOMENTS)]
    for copy, moment in zip(copies, MOMENTS, strict=True):
        pattern, _ = SUBJECT.phases[moment]
        assert kills.wait_for(lambda: process.poll() is None, folder, pattern), moment
        copy_while_stopped(process, folder, copy)
    process.kill()
    process.wait()
    assert not (copies[0] / "checkpoints").exists() and not (copies[0] / "metrics.jsonl").exists()
    assert list((copies[2] / "checkpoints").glob("*tmp")), "half a save"
    for copy in copies:
        assert run(copy).finished
        assert not kills.differences(copy, undisturbed), copy.name
    facts = json.loads((copies[3] / "results.json").read_text())["facts"]
    assert facts["starts"] == 2 and facts["training_seconds"] > 0


# At the start, on the way, and at the end of the training.
@pytest.mark.parametrize("step", [0, STEPS, pytest.param(3, marks=pytest.mark.slow)])
def test_asked_to_stop_in_an_evaluation_it_stops_at_the_next_batch(
    step: int,
    tmp_path: Path,
    undisturbed: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append, folder, asked = RecordFile.append, tmp_path / "run", []

    def asks(file: RecordFile, records: list) -> None:
        append(file, records)
        if file.path.parent.name == f"dev-{step:06d}":
            asked.append(len(records))
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "append", asks)
        outcome = run(folder)
    # The first batch, and none after it.
    assert len(asked) == 1 and not outcome.finished and outcome.step == step
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert not any(json.loads(line)["step"] == step and "dev/" in line for line in lines)
    assert run(folder).finished and not kills.differences(folder, undisturbed)


def test_a_metrics_file_that_was_cut_is_no_silent_gap(tmp_path: Path, whole: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:5]) + lines[5][:7])
    assert run(folder).finished
    warnings = json.loads((folder / "results.json").read_text())["facts"]["provenance"]["warnings"]
    assert any("has 5 of the 10 records up to step 6: it was cut" in text for text in warnings)


def test_a_directory_that_is_deleted_while_it_trains_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = tmp_path / "run", StepLog.write

    def deletes(log: StepLog, step: int, metrics: object, batch: object) -> None:
        if step == 3:
            # At once: a save is in flight, which would make new files meanwhile.
            folder.rename(tmp_path / "away")
        write(log, step, metrics, batch)

    monkeypatch.setattr(StepLog, "write", deletes)
    with pytest.raises(UserError, match="was deleted while this process worked in it; it stops"):
        run(folder)
    assert not (folder / "config.json").exists()


@pytest.mark.slow
def test_a_hundred_kills_lose_no_bit(tmp_path: Path) -> None:
    # A process of its own, which forks: it may have no threads of jax's.
    script = Path(kills.__file__)
    command = [sys.executable, str(script), str(tmp_path / "runs"), f"--seed={time.time_ns()}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
