"""The studies of claims: each expands in every world it has, and asks what its name says."""

import dataclasses
import importlib
import math

import pytest
from lfl_jax.configs.studies import worlds

from lfl_jax.errors import UserError
from lfl_jax.studies import grid, traits

# {study: runs in the lab}
CLAIMS = {
    "tradeoff": 330,
    "learning_rate": 70,
    "rank": 120,
    "modules": 270,
    "alpha": 120,
    "optimizer": 140,
    "init": 170,
    "penalties": 180,
    "mediation": 150,
    "rank_of_change": 90,
    "subspaces": 90,
    "advice": 155,
}


def one_seed(place):
    """The study's runs of its first seed, and how many runs it has in all."""
    study = grid.load(f"configs/studies/{place}")
    runs = grid.expand(dataclasses.replace(study, seeds=study.seeds[:1]))
    return runs, len(runs) * len(study.seeds)


def doc(name):
    return " ".join(importlib.import_module(f"lfl_jax.configs.studies.{name}").__doc__.split())


@pytest.mark.parametrize(("name", "runs"), CLAIMS.items())
def test_a_claim_has_the_runs_that_its_docstring_says(name, runs):
    assert f"{runs} runs" in doc(name)
    assert one_seed(f"{name}.py")[1] == runs


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("world", ["smollm2", "paper"])
def test_a_claim_is_asked_at_size_too(name, world):
    runs, count = one_seed(f"{name}.py:{world}")
    models = {"smollm2": "smollm2-135m", "paper": "llama2-7b"}
    assert {run.config.model.name for run in runs} == {models[world]}
    assert f"{count} runs" in doc(name)


@pytest.mark.parametrize(
    ("name", "runs"), [("tradeoff", 12), ("learning_rate", 20), ("rank_of_change", 8)]
)
def test_three_claims_are_asked_of_the_real_model_at_a_reduced_size(name, runs):
    some, count = one_seed(f"{name}.py:smollm2,quick")
    assert {run.config.model.name for run in some} == {"smollm2-135m"}
    assert count == runs and f"smollm2,quick ({runs} runs" in doc(name)
    known = {run.config.hash() for run in one_seed("tradeoff.py:smollm2,quick")[0]}
    assert {run.config.hash() for run in some} & known, "they share runs"


def test_a_world_that_is_not_there():
    with pytest.raises(ValueError, match="unknown argument smol of configs/studies/rank.py"):
        worlds.of("smol", "rank.py")


def test_replay_has_no_words():
    with pytest.raises(UserError, match="replay.py; it has none"):
        grid.load("configs/studies/replay.py:paper")
    runs, count = one_seed("replay.py")
    assert count == 180
    assert not {"shuffled", "source", "identity"} & {run.arm for run in runs}


def test_alpha_is_the_only_difference():
    runs, _ = one_seed("alpha.py")
    assert {run.config.adapter.rank for run in runs} == {64}
    assert {run.config.adapter.alpha for run in runs} == {128.0, 32.0, 8.0}
    rates = {arm: {run.lr for run in runs if run.arm == arm} for arm in ("alpha128", "alpha8")}
    assert rates["alpha128"] == rates["alpha8"]


def test_modules_are_a_full_grid():
    runs, _ = one_seed("modules.py")
    cells = {(run.config.adapter.targets, run.config.adapter.rank, run.lr) for run in runs}
    assert len(cells) == 3 * 3 * 6


def test_studies_of_the_lab_share_runs():
    known = {run.config.hash() for run in one_seed("lab.py")[0]}
    assert {run.config.hash() for run in one_seed("subspaces.py")[0]} <= known
    for name in ("learning_rate", "rank"):
        runs, _ = one_seed(f"{name}.py")
        assert sum(run.config.hash() in known for run in runs) >= len(runs) * 0.7


@pytest.mark.parametrize("part", ["epochs", "cpt"])
def test_parts_of_the_advice_are_studies_of_the_lab(part):
    runs, count = one_seed(f"advice.py:{part}")
    assert {run.config.model.name for run in runs} == {"lab-1m"}
    assert f"{count} runs" in doc("advice")


@pytest.mark.parametrize("size", ["0.3m", "1m", "3m", "10m"])
def test_a_size_is_a_study_of_its_own(size):
    runs, count = one_seed(f"size.py:{size}")
    assert {run.config.model.name for run in runs} == {f"lab-{size}"}
    assert f"{count} runs each" in doc("size")


def test_interventions_train_few_runs_and_evaluate_many():
    runs, count = one_seed("interventions.py:smollm2")
    trained = count * sum(not run.source for run in runs) // len(runs)
    assert f"{trained} trained runs, {count - trained} evaluations" in doc("interventions")
    runs, count = one_seed("interventions.py")
    trained = count * sum(not run.source for run in runs) // len(runs)
    assert f"{trained} trained runs and {count - trained} evaluations" in doc("interventions")
    assert {run.source.partition("-")[0] for run in runs} == {"", "lora", "full"}


@pytest.mark.parametrize(("world", "count"), [("", 165), (":smollm2", 72)])
def test_subspaces_differ_in_their_dimension_and_rates_alone(world, count):
    runs, there = one_seed(f"intrinsic_dimension.py{world}")
    assert there == count and f"{count} runs" in doc("intrinsic_dimension")
    kinds = traits.of_runs(runs)
    subspaces = [run for run in runs if kinds[run.arm].kind == traits.SUBSPACE]
    assert len({kinds[run.arm] for run in subspaces}) == 1
    # a rate that falls with the root of d, in the same steps: of the lab's smaller d one step on
    for run in subspaces:
        assert run.arm == f"subspace{run.config.adapter.subspace_dim}"
    scaled = {round(math.log2(run.lr**2 * run.config.adapter.subspace_dim)) for run in subspaces}
    assert len(scaled) == (4 if world else 5)
    # full finetuning of what the subspaces are of
    assert {run.arm for run in runs if kinds[run.arm].kind == traits.FULL} == {"full_linear"}
    assert len({run.config.train for run in runs}) == 1


def test_subspaces_are_not_asked_at_the_papers_size():
    with pytest.raises(UserError, match=r"intrinsic_dimension.py; there is: smollm2"):
        grid.load("configs/studies/intrinsic_dimension.py:paper")


def test_continual_trains_every_arm_on_three_tasks_in_turn():
    runs, count = one_seed("continual.py")
    assert f"{count} runs" in doc("continual")
    assert [run.task for run in runs[:3]] == ["facts", "further", "language"]
    # Two arms have the same first task, which is trained on once.
    assert {run.arm for run in runs if run.same_as} == {"lora_new"}
    assert sum(bool(run.same_as) for run in runs) == 5
