"""Tasks one after another: which runs there are, what each starts from, and in which order."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from lfl_jax.configs.studies import base, smoke
from pretended_runs import Fake, finish
from rich.console import Console

from lfl_jax.core import files
from lfl_jax.errors import NonFiniteLoss, UserError
from lfl_jax.studies import grid, outcome, traits
from lfl_jax.studies.running import execute, plan, reuse
from lfl_jax.studies.running.execute import State, Study

MEASURE = "source_nll/nll"


# Of one method and rate, where no more is asked.
ONE = {
    "arms": {
        "full": base.arm("full", lr=(1e-4,)).to_dict(),
        "lora": base.arm("lora,r=2", lr=(1e-3,)).to_dict(),
    },
    "contrasts": (),
}


def values(**changes):
    """The smallest study, of two tasks."""
    study = smoke.get_config().to_dict()
    tasks = (
        base.task("easy", MEASURE, data={"levels": (1, 0, 0)}),
        base.task("hard", MEASURE, data={"levels": (0, 1, 0)}),
    )
    return study | {"sequence": tasks, "seeds": (0,)} | changes


def planned(folder=Path("/studies/a"), **changes):
    return grid.expand(grid.read(values(**changes)), folder)


def test_a_run_for_every_task_from_the_one_before():
    runs = {run.name: run for run in planned()}
    assert len(runs) == 8 and list(runs)[:2] == ["full-0.0001-4-s0-easy", "full-0.0001-4-s0-hard"]
    first, second = (runs[f"lora-0.01-4-s0-{task}"] for task in ("easy", "hard"))
    assert (first.start, first.config.adapter.path, first.config.adapter.start_config) == ("",) * 3
    assert second.start == first.name and second.needs == {first.name}
    assert second.config.adapter.path == f"/studies/a/runs/{first.name}"
    assert second.config.adapter.start_config == first.config.hash()
    assert [run.config.data.levels for run in (first, second)] == [(1, 0, 0), (0, 1, 0)]
    # All else is what the arm and its seed say.
    assert second.config.optim.lr == 0.01 and second.config.seed == first.config.seed
    # The first task of a sequence is the run that it is without one.
    alone = grid.read(values(sequence=(), config=values()["config"] | {"data": {"size": 32}}))
    assert {run.task for run in grid.expand(alone)} == {""}


def test_a_config_says_which_run_it_starts_from_wherever_that_lies():
    here, there = planned(Path("/here")), planned(Path("/there"))
    assert [run.config.hash() for run in here] == [run.config.hash() for run in there]
    changed = values()["sequence"]
    changed[0]["config"]["data"]["levels"] = (0, 0, 1)
    others = {run.name: run for run in planned(sequence=changed)}
    # Another first task is another second run, though nothing of its own task is changed.
    second = next(run for run in here if run.task == "hard")
    assert others[second.name].config.hash() != second.config.hash()
    assert others[second.name].config.data == second.config.data


def test_a_new_adapter_over_the_earlier_ones():
    arms = values()["arms"]
    arms["new"] = base.arm("lora,r=2", lr=(1e-3, 1e-2), start="over").to_dict()
    runs = {run.name: run for run in planned(arms=arms)}
    adapter = runs["new-0.01-4-s0-hard"].config.adapter
    assert (adapter.path, adapter.over) == ("", "/studies/a/runs/new-0.01-4-s0-easy")
    arms["full"]["start"] = "over"
    with pytest.raises(UserError, match="over is under a new adapter"):
        planned(arms=arms)


def test_arms_differ_in_how_they_start_and_not_in_where():
    arms = values()["arms"]
    arms["new"] = base.arm("lora,r=2", lr=(1e-3,), start="over").to_dict()
    arms["large"] = base.arm("lora,r=4", lr=(1e-3,)).to_dict()
    known = traits.of_runs(planned(arms=arms))
    assert known["lora"].differs_in(known["new"]) == {"adapter.path", "adapter.over"}
    assert known["lora"].rest == known["large"].rest != known["new"].rest


@pytest.mark.parametrize(
    ("said", "changes"),
    {
        "expected at least 2 tasks, each once": {"sequence": (base.task("easy", MEASURE),)},
        "task 'a.b' of the sequence": {"sequence": (base.task("a.b", MEASURE),) * 2},
        "unknown study field sequence.scores": {"sequence": ({"scores": ""},) * 2},
        "task easy sets optim.lr": {
            "sequence": (base.task("easy", MEASURE, optim={"lr": 1}), base.task("b", MEASURE))
        },
        "measure '': expected": {"sequence": (base.task("easy"), base.task("hard"))},
        "later tasks start from the weights": {"checkpoints": "none"},
        "start 'merged'; expected one of path": {
            "arms": smoke.get_config().arms.to_dict()
            | {"lora": base.arm("lora", lr=(1e-3,), start="merged").to_dict()}
        },
        "arm half is not trained": {
            "arms": smoke.get_config().arms.to_dict() | {"half": base.derived("lora").to_dict()}
        },
        "arm lora and task easy both set data.levels": {
            "arms": smoke.get_config().arms.to_dict()
            | {"lora": base.arm("lora", lr=(1e-3,), data={"levels": (0, 0, 1)}).to_dict()}
        },
    }.items(),
)
def test_what_no_sequence_is(said, changes):
    with pytest.raises(UserError, match=said):
        grid.read(values(**changes))


def test_a_measure_of_whatever_is_trained_on_is_of_no_task():
    tasks = (base.task("easy", "target_nll/nll"), base.task("hard", MEASURE))
    with pytest.raises(UserError, match="target_nll/nll is of whatever a run trains on"):
        planned(sequence=tasks)
    tasks = (base.task("easy", "gsm8k/acc"), base.task("hard", MEASURE))
    with pytest.raises(UserError, match="add gsm8k to eval.tasks"):
        planned(sequence=tasks)
    with pytest.raises(UserError, match="start='over' is for studies with a sequence"):
        arms = {"a": base.arm("lora", lr=(1e-3,), start="over").to_dict()}
        grid.read(values(sequence=(), arms=values()["arms"] | arms))


def test_a_run_begins_when_the_one_it_starts_from_has_ended(tmp_path):
    runs = planned(tmp_path, **ONE)
    order = [run.name for run in runs]
    assert all(order.index(run.start) < order.index(run.name) for run in runs if run.start)
    first, second, other = runs[:3]
    assert execute._is_ready(second, [other]) and not execute._is_ready(second, [first])
    fake = Fake()
    assert execute.execute(Study(tmp_path, runs), fake, quiet=True) and fake.done == order
    again = Fake()
    assert execute.execute(Study(tmp_path, runs), again, quiet=True) and again.done == []


def test_arms_with_the_same_first_task_have_one_run_of_it(tmp_path):
    arms = {"lora": values()["arms"]["lora"]}
    arms["new"] = base.arm("lora,r=2", lr=(1e-3, 1e-2), start="over").to_dict()
    runs = planned(tmp_path, arms=arms, contrasts=())
    study = Study(tmp_path, runs)
    copies = [run for run in runs if run.same_as]
    assert [run.name for run in copies] == ["new-0.001-4-s0-easy", "new-0.01-4-s0-easy"]
    assert not execute._is_ready(copies[0], [study.named(copies[0].same_as)])

    def do(config, folder, base_records, shared):
        files.write_text(folder / "checkpoints/4/params", "weights")
        return fake(config, folder, base_records, shared)

    fake = Fake(lora_0_01_4_s0_easy=UserError("no room"))
    assert execute.execute(study, do, quiet=True)
    assert "new-0.001-4-s0-easy" not in fake.done and "new-0.001-4-s0-hard" in fake.done
    assert study.ended()["new-0.001-4-s0-easy"].reused.endswith("lora-0.001-4-s0-easy")
    # What failed for one is tried for the other.
    assert "new-0.01-4-s0-easy" in fake.done and len(fake.done) == 6
    assert outcome._reused(study) == []


def test_what_starts_from_a_failed_run_is_not_run_and_stops_nothing(tmp_path):
    study = Study(tmp_path, planned(tmp_path))
    faults = {
        "full_0_001_4_s0_easy": NonFiniteLoss("loss nan at step 3"),
        "lora_0_001_4_s0_easy": UserError("no room"),
    }
    fake = Fake(**faults)
    assert execute.execute(study, fake, quiet=True)
    states, ended = study.states(), study.ended()
    assert list(states.values()).count(State.FINISHED) == 4
    assert states["full-0.001-4-s0-easy"] is State.DIVERGED
    assert "lora-0.001-4-s0-hard" not in fake.done
    assert states["full-0.001-4-s0-hard"] is State.FAILED
    reason = ended["full-0.001-4-s0-hard"].reason
    assert reason == (
        "not run: full-0.001-4-s0-easy, which it starts from, diverged: loss nan at step 3"
    )
    assert not study.run_folder(study.named("full-0.001-4-s0-hard")).exists()
    # What failed is tried again, and so is what starts from it.
    again = Fake()
    assert execute.execute(study, again, quiet=True)
    assert again.done == ["lora-0.001-4-s0-easy", "lora-0.001-4-s0-hard"]


def test_an_interrupted_first_task_is_resumed_and_the_second_waits(tmp_path):
    study = Study(tmp_path, planned(tmp_path, **ONE))
    assert not execute.execute(study, Fake(full_0_0001_4_s0_easy="interrupted"), quiet=True)
    rest = Fake()
    assert execute.execute(study, rest, quiet=True)
    assert rest.done == [run.name for run in study.runs]
    only = Fake()
    shutil.rmtree(tmp_path / "runs")
    assert execute.execute(study, only, only="full-0.0001-4-s0-hard", quiet=True)
    (reason,) = {study.ended()["full-0.0001-4-s0-hard"].reason}
    assert only.done == [] and reason.endswith("which it starts from, has not finished")


def test_a_task_is_reused_where_its_start_was(tmp_path, monkeypatch):
    monkeypatch.setattr(reuse.Known, "_is_current", lambda self, folder, config: True)
    done = Study(tmp_path / "a", planned(tmp_path / "a", **ONE))
    for run in done.runs:
        finish(run.config, done.run_folder(run))
        files.write_text(done.run_folder(run) / "checkpoints/4/params", "weights")
    study, fake = Study(tmp_path / "b", planned(tmp_path / "b", **ONE)), Fake()
    assert execute.execute(study, fake, quiet=True) and fake.done == []
    # A copy of a copy is found by what it says itself: the first place.
    shutil.rmtree(tmp_path / "a")
    third = Study(tmp_path / "c", planned(tmp_path / "c", **ONE))
    # A plan says so of every task, before anything is copied.
    assert plan._left(third, third.states(), Console(quiet=True)) == []
    assert execute.execute(third, fake, quiet=True) and fake.done == []
    assert reuse.origins(third.run_folder(third.runs[0]))[1].is_relative_to(tmp_path / "a")

    # One that starts from a run of its own study is not another study's.
    fourth = Study(tmp_path / "d", planned(tmp_path / "d", **ONE))
    assert len(fourth.runs) == 4
    first, second = fourth.runs[:2]
    finish(first.config, fourth.run_folder(first))
    assert execute.execute(fourth, fake, only=second.name, quiet=True)
    assert fake.done == [second.name]


def test_the_start_is_no_file_that_an_evaluation_reads(tmp_path):
    (run,) = [run for run in planned(tmp_path) if run.name == "lora-0.01-4-s0-hard"]
    (tmp_path / "runs" / run.start).mkdir(parents=True)
    assert reuse._named_files(run.config) == []
    adapter = dataclasses.replace(run.config.adapter, start_config="")
    config = dataclasses.replace(run.config, adapter=adapter)
    assert reuse._named_files(config) == [tmp_path / "runs" / run.start]
