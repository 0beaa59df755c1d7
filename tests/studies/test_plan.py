"""What a study takes and finds, before it runs."""

from types import SimpleNamespace

import numpy as np
import pytest
from lfl_jax.configs.studies import base, smoke
from rich.console import Console

from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.evals.run import Result
from lfl_jax.statistics.calibration import assumed, simulate
from lfl_jax.studies import grid
from lfl_jax.studies.running import plan
from lfl_jax.studies.running.execute import Study
from lfl_jax.train import Outcome


def test_more_seeds_and_items_find_less():
    few, many = assumed(seeds=3, items=64), assumed(seeds=8, items=512)
    assert 0 < plan.detectable(many, 20) < plan.detectable(few, 20) < 0.5


def test_a_study_that_cannot_compare_says_so():
    study = grid.read(smoke.get_config().to_dict())
    assert "2 learning rates an arm" in plan._power(study, 8)
    one = grid.read(smoke.get_config().to_dict() | {"seeds": (0,)})
    assert plan._power(one, 8).startswith("1 seed: no error")


def test_finished_runs_lend_their_variances_to_the_plan(tmp_path, monkeypatch):
    config = grid.read(smoke.get_config().to_dict() | {"seeds": (0, 1, 2)})
    study = Study(tmp_path, grid.expand(config))
    # Before there are runs nothing is known of them.
    assert plan.measured(config, study, study.states()) is None

    arms = simulate(assumed(seeds=8), 0.0, np.random.default_rng(0))
    grids = {arm.name: SimpleNamespace(arm=arm) for arm in arms}
    primary = SimpleNamespace(first="first", second="second")
    findings = SimpleNamespace(answers=(primary,), grids=grids)
    monkeypatch.setattr(plan.study_outcome, "findings", lambda config, study, states: findings)
    design = plan.measured(config, study, study.states())
    # Of the seeds that are planned, not of those that were run.
    assert (design.seeds, design.forgetting.items) == (3, 256)
    sentence = plan._power(config, 8, design)
    assert "3 seeds: with the variances of the finished runs" in sentence


def test_an_interrupted_probe_says_so_and_leaves_nothing(tmp_path):
    study = Study(tmp_path, grid.expand(grid.read(smoke.get_config().to_dict())))

    def stopped(request):
        (request.workdir).mkdir()
        assert request.config.train.steps == 4
        return Outcome({}, {}, {}, 1, 4, 1, finished=False)

    with pytest.raises(UserError, match="the probe was interrupted"):
        plan.probes(study, ("source_nll",), stopped)
    assert not list(tmp_path.iterdir())
    assert plan.Probe(0.5, 10.0, 8, 1).seconds(100) == 60.0


def with_scaled_arm():
    values = smoke.get_config().to_dict()
    values["arms"]["half"] = base.derived("lora", scales=(0.5,)).to_dict()
    return grid.read(values | {"seeds": (0,)})


class Probed:
    """A training that takes no time, and evaluates the base where nobody has."""

    def __init__(self):
        self.arms = []

    def __call__(self, request):
        self.arms.append(request.config.adapter.kind)
        if not request.base_records.exists():
            files.write_text(request.base_records / "source_nll-0.jsonl", "scores")
        after = {"source_nll": Result("", 8, {}, {}, {}, "")}
        return Outcome({}, after, {"training_seconds": 1.5}, 4, 4, 4, finished=True)


def test_every_arm_is_probed_and_the_base_is_evaluated_once(tmp_path):
    config, train = with_scaled_arm(), Probed()
    study = Study(tmp_path, grid.expand(config))
    probes = plan.probes(study, ("source_nll",), train)
    # The first one evaluated the base, which no other run will: its time is taken again.
    assert train.arms == ["none", "none", "lora"] and list(probes) == ["full", "lora"]
    assert probes["lora"].seconds_per_step == 0.5
    assert len(list(study.base_records.iterdir())) == 1
    assert list(plan.probes(study, ("source_nll",), train)) == ["full", "lora"]
    assert len(train.arms) == 5


def test_hours_are_the_sum_over_arms(tmp_path, monkeypatch, capsys):
    timed = {"lora": plan.Probe(1.0, 10.0, 8, 1), "full": plan.Probe(2.0, 20.0, 8, 1)}
    monkeypatch.setattr(plan, "probes", lambda *arguments: timed)
    config = with_scaled_arm()
    plan.show(config, Study(tmp_path / "study", grid.expand(config)), Console(width=200))
    out = capsys.readouterr().out
    assert "lora: 2 runs left, about 28 s; 1 s a step and 10 s beside them" in out
    assert "full: 2 runs left, about 56 s" in out
    # Without training, it is the evaluations alone.
    assert "half: 2 runs left, about 20 s, which alter the finished change of lora" in out
    assert "6 runs, 6 left: about 2 min, one after another; 0 MB (checkpoints: weights)\n" in out


def test_hours_and_bytes_with_jobs(tmp_path, monkeypatch, capsys):
    seconds = {"a": 1000.0, "b": 1000.0, "c": 2000.0}
    assert plan._duration(seconds, 1, 8.0) == "67 min, one after another"
    assert plan._duration(seconds, 2, 2.0) == "33 min with --jobs=2 (67 min one after another)"
    # The longest run is not shared out; and runs that each use both cores gain nothing.
    assert plan._duration(seconds, 3, 3.0).startswith("33 min with --jobs=3")
    assert plan._duration(seconds, 2, 1.0).startswith("67 min with --jobs=2")
    assert plan._duration({}, 2, 2.0).startswith("0 s with --jobs=2")

    timed = {"lora": plan.Probe(1.0, 10.0, 8, 10**6, 2 * 10**6)}
    timed["full"] = plan.Probe(2.0, 20.0, 8, 10**6, 8 * 10**6, cores=1.25)
    monkeypatch.setattr(plan, "probes", lambda *arguments: timed)
    cores = [frozenset({0}), frozenset({1})]
    monkeypatch.setattr(plan.workers, "cores_of", lambda jobs: cores[:jobs])
    config = with_scaled_arm()
    study = Study(tmp_path / "study", grid.expand(config))
    plan.show(config, study, Console(width=200), jobs=2)
    out = capsys.readouterr().out
    assert "about 65 s with --jobs=2 (2 min one after another)" in out
    assert "4 MB (checkpoints: weights), and 14 MB until a run ends" in out


class Saved(Probed):
    """A training that leaves a checkpoint, too."""

    def __call__(self, request):
        for tree, size in (("params", 1000), ("optimizer", 2000)):
            files.write_text(request.workdir / f"checkpoints/4/{tree}/values", "x" * size)
        return super().__call__(request)


def test_bytes_are_of_what_stays(tmp_path):
    runs = grid.expand(with_scaled_arm())
    sizes = {}
    for kept in ("all", "weights", "none"):
        study = Study(tmp_path / kept, runs, retention=kept)
        one = plan.probes(study, ("source_nll",), Saved())["lora"]
        sizes[kept] = (one.bytes_of_run, one.bytes_at_end)
    assert sizes == {"all": (3000, 3000), "weights": (1000, 3000), "none": (0, 3000)}
