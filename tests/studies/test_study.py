"""A whole study, from its config to its page; killed in the middle, it ends in the same tables.

python -m pytest -m slow tests/studies/test_study.py      6 minutes
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from lfl_jax.configs.studies import smoke

from lfl_jax import study as command
from lfl_jax.core import files
from lfl_jax.studies import grid
from lfl_jax.studies.running.execute import Study

pytestmark = pytest.mark.slow
CONFIG = smoke.__file__
ARGUMENTS = ["study", f"--config={CONFIG}", "--quiet"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "whole"
    command.main([*ARGUMENTS, f"--workdir={folder}"])
    return folder


def content(folder):
    """{file: its bytes} of everything that a study says."""
    tables = {file.name: file.read_bytes() for file in (folder / "report/tables").iterdir()}
    records = folder.glob("runs/*/evals/*/*.jsonl")
    return tables | {str(file.relative_to(folder)): file.read_bytes() for file in records}


def test_a_study_ends_in_its_page(finished):
    page = (finished / "report/index.html").read_text()
    assert "Smoke study" in page and "Does lora forget less than full" in page
    assert "its scores mean nothing" in page and "python -m lfl_jax.study" in page
    lines = files.read_jsonl(finished / "runs.jsonl")
    assert len(lines) == 8 and {line["state"] for line in lines} == {"finished"}


def test_the_base_is_evaluated_once(finished):
    # A file for each task: the arms and the seeds have one base and one set of items.
    assert len(list((finished / "base").glob("*.jsonl"))) == 3
    fingerprints = {
        json.loads(path.read_text())["facts"]["provenance"]["base"]["fingerprint"]
        for path in finished.glob("runs/*/results.json")
    }
    assert len(fingerprints) == 1


def test_an_arm_evaluates_the_base_as_another_does(finished, tmp_path):
    """Else the records that they share would be those of the arm that ran first."""
    planned = {run.name: run for run in grid.expand(grid.load(CONFIG))}
    from lfl_jax import train

    for name in ("lora-0.001-4-s0", "full-0.001-4-s1"):
        train.run(train.Run(planned[name].config, tmp_path / name, quiet=True))
        for file in (tmp_path / name / "evals/before").iterdir():
            shared = finished / "runs" / name / "evals/before" / file.name
            assert file.read_bytes() == shared.read_bytes(), file


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_in_the_middle_it_ends_in_the_same_tables(finished, tmp_path, jobs):
    """By one process or by several: what they write is the same, bit for bit."""
    # In a folder of its own: from a study beside it, it would take the finished runs.
    place = tmp_path / "study"
    options = [*ARGUMENTS[1:], f"--workdir={place}", f"--jobs={jobs}"]
    arguments = [sys.executable, "-m", "lfl_jax.study", *options]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(arguments, env=environment)
    # In the third run, after its base was read and while it trains or evaluates.
    third = Study(place, grid.expand(grid.load(CONFIG))).runs[2].name
    deadline = time.monotonic() + 240
    while not (place / "runs" / third / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= len(files.read_jsonl(place / "runs.jsonl")) <= 2

    command.main(["study", *options])
    assert content(place) == content(finished)


def test_a_plan_is_of_the_study(tmp_path, capsys):
    command.main([*ARGUMENTS, f"--workdir={tmp_path}", "--plan"])
    out = capsys.readouterr().out
    assert "lora-0.01-4-s1" in out and "8 runs, 8 left: about" in out
    assert "2 learning rates an arm" in out and not (tmp_path / "probe").exists()
