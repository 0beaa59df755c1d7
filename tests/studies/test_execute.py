"""Runs in order: finished ones are skipped, failures are recorded and stop nothing."""

import contextlib
import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest
from lfl_jax.configs.studies import base, smoke
from pretended_runs import Fake, finish
from rich.console import Console

from lfl_jax import errors
from lfl_jax.core import files
from lfl_jax.errors import NonFiniteLoss, UserError
from lfl_jax.io.interrupt import interrupts
from lfl_jax.studies import grid, outcome
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.running import execute, finished, keeping
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


# In the middle, and where nothing is left that could be the next.
@pytest.mark.parametrize("index", [2, 7])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_a_run_could_not_act_on_ends_the_study(study, number, index):
    """It diverges in the step in which it is asked."""

    class Asked(Fake):
        def __call__(self, config, folder, base_records, shared):
            with interrupts():
                if folder.name == study.runs[index].name:
                    os.kill(os.getpid(), number)
                return super().__call__(config, folder, base_records, shared)

    def main(argv):
        if not execute.execute(study, fake, quiet=True):
            sys.exit(130)

    name = study.runs[index].name.replace("-", "_").replace(".", "_")
    fake = Asked(**{name: NonFiniteLoss("loss nan at step 3")})
    with pytest.raises(SystemExit) as ended:
        errors.entry(main, [])
    assert ended.value.code == 130
    assert fake.done == [run.name for run in study.runs[: index + 1]]
    # How that run ended is known, and the others are left.
    states = [State.FINISHED] * index + [State.DIVERGED] + [State.LEFT] * (7 - index)
    assert list(study.states().values()) == states
    assert not errors.was_asked_to_stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_run_begins_after_a_stop_whose_exception_was_lost(study, number):
    class Lost(Fake):
        def __call__(self, *args):
            # As in a finaliser, whose errors Python ignores.
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), number)
            return super().__call__(*args)

    def main(argv):
        assert not execute.execute(study, fake, quiet=True)

    fake = Lost()
    errors.entry(main, [])
    assert fake.done == [study.runs[0].name]


def test_damage_is_not_finished(study):
    execute.execute(study, Fake(), quiet=True)
    records, results, config = (study.run_folder(run) for run in study.runs[:3])
    text = (records / "evals/after/target_nll.jsonl").read_text()
    (records / "evals/after/target_nll.jsonl").write_text(text.splitlines()[0] + "\n")
    os.unlink(results / "results.json")
    changed = json.loads((config / "config.json").read_text())
    changed["config"]["eval"]["rows"] += 1
    (config / "config.json").write_text(json.dumps(changed))
    (study.run_folder(study.runs[3]) / "evals/before/source_nll.jsonl").unlink()
    again = Fake()
    execute.execute(study, again, quiet=True)
    assert again.done == [run.name for run in study.runs[:4]]
    # What was lost is said: of an evaluation that was cut off, and of one that is not there.
    reasons = [study.ended()[run.name].reason for run in study.runs[:4]]
    assert "0 of 1 items; the evaluation was interrupted" in reasons[0]
    assert reasons[1:] == ["", "", "done again, as evals/before/source_nll.jsonl is missing"]
    assert set(study.states().values()) == {State.FINISHED}


def test_a_run_that_is_not_done_again_is_left_out_with_what_it_lost(study):
    execute.execute(study, Fake(), quiet=True)
    damaged = study.runs[2]
    (study.run_folder(damaged) / "evals/after/target_kl.jsonl").unlink()
    runs = {run.name: run for run in outcome.read(study, study.states(), Scores("base", {}))}
    assert runs[damaged.name].scores is None
    assert runs[damaged.name].reason == "evals/after/target_kl.jsonl is missing"


def test_records_of_the_training_are_made_again_by_training(tmp_path):
    values = smoke.get_config().to_dict()
    values["config"]["eval"]["every_tasks"] = ("target_nll:4",)
    study = Study(tmp_path, grid.expand(grid.read(values)))
    execute.execute(study, Fake(), quiet=True)
    lost, cut = (study.run_folder(run) for run in study.runs[:2])
    for folder in (lost, cut):
        files.write_text(folder / "checkpoints/4/params", "weights")
    (lost / "evals/dev-000004/target_nll.jsonl").unlink()
    (cut / "evals/after/target_nll.jsonl").unlink()
    again = Fake()
    execute.execute(study, again, quiet=True)
    assert again.done == [run.name for run in study.runs[:2]]
    reason = "done again, as evals/dev-000004/target_nll.jsonl is missing"
    assert study.ended()[lost.name].reason == reason
    # The models of its training are gone; those of the other's end are not.
    assert not (lost / "checkpoints").exists() and (cut / "checkpoints/4/params").exists()


def test_what_the_results_have_numbers_of_is_expected(study):
    """A task that some data leave out, as its results are the only ones that know."""
    execute.execute(study, Fake(), quiet=True)
    run = study.runs[0]
    folder = study.run_folder(run)
    rows = [{"task": "source_test", "variant": "after"}, {"task": "own", "variant": "after"}]
    files.write_json(folder / "results.json", {"rows": rows})
    assert finished.lost(folder, run.config) == "evals/after/source_test.jsonl is missing"


def test_a_run_that_finished_is_sent_to_where_it_is_tracked(planned, tmp_path, monkeypatch):
    """After its report is written, which is sent, too; not before its end."""
    ends, events = [True, False], []

    def train_run(request):
        return SimpleNamespace(finished=ends.pop(0), before={"a": 1}, after={"b": 2})

    monkeypatch.setattr(execute.train, "run", train_run)
    monkeypatch.setattr(execute.finished_run, "paired", lambda *_: ("report", "facts"))
    monkeypatch.setattr(execute.results_json, "save", lambda *_: events.append("saved"))
    monkeypatch.setattr(execute.finished_run, "send", lambda *given: events.append(given))
    config = planned[0].config
    assert execute.train_and_save(config, tmp_path, tmp_path, execute.Shared())
    assert events == ["saved", (config, {"a": 1}, {"b": 2}, tmp_path)]
    assert not execute.train_and_save(config, tmp_path, tmp_path, execute.Shared())
    assert len(events) == 2


def with_checkpoint(config, folder, base_records, shared):
    """A run that leaves weights and moments."""
    finish(config, folder)
    for tree in ("params", "optimizer"):
        files.write_text(folder / f"checkpoints/4/{tree}/values", tree)
    return True


def trees_of(study, run):
    return sorted(path.name for path in (study.run_folder(run) / "checkpoints").glob("4/*"))


@pytest.mark.parametrize(
    ("kept", "trees"),
    [
        pytest.param("all", ["optimizer", "params"], marks=pytest.mark.slow),
        pytest.param("weights", ["params"], marks=pytest.mark.slow),
        ("none", []),
    ],
)
def test_what_stays_of_the_checkpoints(tmp_path, planned, kept, trees):
    study = Study(tmp_path, planned, retention=kept)
    execute.execute(study, with_checkpoint, quiet=True)
    assert [trees_of(study, run) for run in planned] == [trees] * len(planned)
    # Nothing of it makes a finished run one that is left, nor leaves anything else behind.
    assert set(study.states().values()) == {State.FINISHED}
    assert not list(tmp_path.rglob(".checkpoints.removed"))
    assert (study.run_folder(planned[0]) / "checkpoints").exists() == bool(trees)


@pytest.mark.parametrize("at", [pytest.param("before", marks=pytest.mark.slow), "inside"])
def test_killed_between_training_and_removal(tmp_path, planned, monkeypatch, at):
    study = Study(tmp_path, planned)

    def killed(folder, kept):
        if at == "inside":
            # Half of a removal: renamed, and not yet deleted.
            (folder / ".checkpoints.removed").mkdir()
            moved = folder / ".checkpoints.removed/4.optimizer.1"
            (folder / "checkpoints/4/optimizer").rename(moved)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(execute.keeping, "keep", killed)
        execute.execute(study, with_checkpoint, quiet=True)
    assert study.states()[planned[0].name] is State.FINISHED
    rest = Fake()
    execute.execute(study, rest, quiet=True)
    # The run itself is not done again.
    assert rest.done == [run.name for run in planned[1:]]
    assert trees_of(study, planned[0]) == ["params"]
    assert not list(tmp_path.rglob("*removed*"))


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


def test_every_legal_value_is_known():
    assert set(keeping.RETENTIONS) == {"all", "weights", "none"}
    assert base.study().checkpoints == "weights"


def test_what_is_finished_may_be_decided_otherwise(tmp_path, planned):
    done = planned[1]
    study = Study(tmp_path, planned, lambda folder, config: folder.name == done.name)
    rest = Fake()
    execute.execute(study, rest, quiet=True)
    assert done.name not in rest.done and len(rest.done) == len(planned) - 1
