"""Runs in order: finished ones are skipped, failures are recorded and stop nothing."""

import json
import os

import pytest
from lfl_jax.configs.studies import smoke
from pretended_runs import Fake, finish
from rich.console import Console

from lfl_jax.core import files
from lfl_jax.errors import NonFiniteLoss, UserError
from lfl_jax.studies import grid
from lfl_jax.studies.running import execute
from lfl_jax.studies.running.execute import State, Study


@pytest.fixture(scope="module")
def planned():
    return grid.expand(grid.read(smoke.get_config().to_dict()))


@pytest.fixture
def study(tmp_path, planned):
    return Study(tmp_path, planned)


def test_finished_runs_are_not_run_again(study):
    first = Fake()
    assert execute.execute(study, first, quiet=True)
    assert first.done == [run.name for run in study.runs]
    again = Fake()
    assert execute.execute(study, again, quiet=True) and again.done == []
    assert set(study.states().values()) == {State.FINISHED}


def test_failures_are_recorded_and_stop_nothing(study):
    faults = {
        "full_0_001_4_s0": NonFiniteLoss("loss nan at step 3"),
        "lora_0_001_4_s0": UserError("no room"),
        "lora_0_01_4_s1": ValueError("a fault of ours"),
    }
    assert execute.execute(study, Fake(**faults), quiet=True)
    ended, states = study.ended(), study.states()
    assert ended["full-0.001-4-s0"].reason == "loss nan at step 3"
    assert states["full-0.001-4-s0"] is State.DIVERGED
    assert states["lora-0.001-4-s0"] is State.FAILED
    assert ended["lora-0.01-4-s1"].reason == "ValueError: a fault of ours"
    assert "a fault of ours" in (study.run_folder(study.runs[-1]) / "traceback.txt").read_text()
    assert list(states.values()).count(State.FINISHED) == 5
    # What diverged would diverge again; what failed may have been a full disk.
    again = Fake()
    execute.execute(study, again, quiet=True)
    assert again.done == ["lora-0.001-4-s0", "lora-0.01-4-s1"]
    assert study.states()["lora-0.001-4-s0"] is State.FINISHED


def test_an_interrupted_study_resumes(study):
    name = study.runs[2].name.replace("-", "_").replace(".", "_")
    assert not execute.execute(study, Fake(**{name: "interrupted"}), quiet=True)
    states = list(study.states().values())
    assert states == [State.FINISHED] * 2 + [State.LEFT] * 6
    rest = Fake()
    assert execute.execute(study, rest, quiet=True)
    assert rest.done == [run.name for run in study.runs[2:]]


def test_damage_is_not_finished(study):
    execute.execute(study, Fake(), quiet=True)
    records, results, config = (study.run_folder(run) for run in study.runs[:3])
    text = (records / "evals/after/target_nll.jsonl").read_text()
    (records / "evals/after/target_nll.jsonl").write_text(text.splitlines()[0] + "\n")
    os.unlink(results / "results.json")
    changed = json.loads((config / "config.json").read_text())
    changed["config"]["eval"]["rows"] += 1
    (config / "config.json").write_text(json.dumps(changed))
    again = Fake()
    execute.execute(study, again, quiet=True)
    assert again.done == [run.name for run in study.runs[:3]]


def test_a_directory_of_another_study_is_refused(study):
    finish(study.runs[1].config, study.run_folder(study.runs[0]))
    with pytest.raises(UserError, match="another config; give the study another --workdir"):
        execute.execute(study, Fake(), quiet=True)


def test_only(study):
    some = Fake()
    execute.execute(study, some, only="^lora.*s0$", quiet=True)
    assert some.done == ["lora-0.001-4-s0", "lora-0.01-4-s0"]
    with pytest.raises(UserError, match="matches none of the runs, such as full"):
        execute.select(study.runs, "dora")
    with pytest.raises(UserError, match="not a regular expression"):
        execute.select(study.runs, "(")


def test_time_left_is_by_what_finished(study):
    assert execute.remaining_seconds(study, study.runs) is None
    first = study.runs[0]
    for run, seconds in zip(study.runs[:2], (30.0, 10.0), strict=True):
        end = execute.Ended(run.name, run.config.hash(), State.FINISHED, seconds)
        files.append_jsonl(study.folder / execute.LOG, [vars(end)])
    left = study.runs[2:]
    # All are of one length here: an arm without a finished run takes as long per step.
    assert execute.remaining_seconds(study, left) == pytest.approx(20.0 * len(left))
    assert first.arm == "full"
    assert [execute.clock(s) for s in (None, 41.4, 700.0, 9000.0)] == [
        "?",
        "41 s",
        "12 min",
        "2.5 h",
    ]


def test_the_table_says_what_is_left_and_why_runs_failed(study, capsys):
    execute.execute(
        study, Fake(full_0_001_4_s0=NonFiniteLoss("loss nan [x]")), only="full", quiet=True
    )
    execute.show(study, study.states(), Console(width=100))
    out = capsys.readouterr().out
    assert "full-0.001-4-s0 diverged: loss nan [x]" in out
    assert [line.split()[:5] for line in out.splitlines()[1:3]] == [
        ["full", "3", "1", "0", "0"],
        ["lora", "0", "0", "0", "4"],
    ]


def test_what_is_finished_may_be_decided_otherwise(tmp_path, planned):
    done = planned[1]
    study = Study(tmp_path, planned, lambda folder, config: folder.name == done.name)
    rest = Fake()
    execute.execute(study, rest, quiet=True)
    assert done.name not in rest.done and len(rest.done) == len(planned) - 1
