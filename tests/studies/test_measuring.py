"""Weights and curvature of a study's runs, measured once each, as far as the study asks for them."""

import dataclasses

import numpy as np
import pytest
from lfl_jax.configs.studies import base, smoke

from lfl_jax.analysis import run_weights
from lfl_jax.config import command_line
from lfl_jax.core.sharding import make_rules
from lfl_jax.run_setup import base_model
from lfl_jax.studies import grid, outcome
from lfl_jax.studies.records import run_measures
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.running import execute, measuring, step_zero
from lfl_jax.studies.running.execute import Study

WORDS = "math_ift:smoke,lora,r=2"
SMALL = {"data.size": 32, "data.seq_len": 256}


def config(words=WORDS, **fields):
    return command_line.configured(
        words, SMALL | {k.replace("_", ".", 1): v for k, v in fields.items()}
    )


def test_runs_that_differ_in_rate_and_length_start_alike():
    first = step_zero.key(config())
    assert step_zero.key(config(optim_lr=0.5, train_steps=9)) == first
    others = [config(seed_data=7), config(seed_init=7), config("math_ift:smoke,lora,r=4")]
    assert first not in map(step_zero.key, others)


def measured(run_config, folder, microbatches=1):
    rules = make_rules()
    loaded = base_model.load(run_config, rules)
    return step_zero.measure(run_config, loaded, folder, microbatches, rules)


@pytest.mark.slow
def test_penalties_are_a_part_of_the_loss(tmp_path):
    """Every weight of an L2 penalty bends the loss by twice its factor, in every direction."""
    full = "math_ift:smoke,full"
    plain, decayed = (measured(config(full, penalty_l2=x), tmp_path) for x in (0.0, 3.0))
    assert plain.converged and decayed.value == pytest.approx(plain.value + 6, rel=1e-3)
    far = measured(config(full, penalty_non_target_kl=3.0), tmp_path)
    assert far.converged and far.value > 1.1 * plain.value, "a divergence's Hessian is its Fisher's"


@pytest.mark.slow
def test_a_study_measures_what_it_asks_for_once(tmp_path, monkeypatch):
    values = smoke.get_config().to_dict()
    values["arms"]["half"] = base.derived("lora", scales=(0.5,)).to_dict()
    values |= {"weights": True, "curvature": 1}
    study_config = grid.read(values)
    study = Study(tmp_path / "study", grid.expand(study_config))
    only = "s0"
    assert execute.execute(study, only=only, quiet=True)
    chosen = execute.select(study.runs, only)
    measuring.complete(study_config, study, study.states())

    by_name = {run.name: run_measures.read(study.run_folder(run)) for run in chosen}
    for run in chosen:
        assert by_name[run.name].keys() >= {"relative_norm", "k90", "curvature"}, run.name
    # A scaled change is of the same rank; its start is its source's.
    half, whole = (by_name[name] for name in ("half-0.01-4-s0-x0.5", "lora-0.01-4-s0"))
    assert half["frobenius"] == pytest.approx(0.5 * whole["frobenius"], rel=1e-4)
    assert half["k90"] == whole["k90"] and half["curvature"] == whole["curvature"]
    assert 0 < whole["k90"] <= 2 < by_name["full-0.001-4-s0"]["k90"]
    assert by_name["full-0.001-4-s0"]["curvature"] == by_name["full-0.0001-4-s0"]["curvature"]
    assert by_name["full-0.001-4-s0"]["curvature"] != whole["curvature"]

    # Nothing is measured twice; a file that was lost is.
    monkeypatch.setattr(step_zero, "measure", None)
    monkeypatch.setattr(measuring.measure_weights, "measure", None)
    measuring.complete(study_config, study, study.states())
    monkeypatch.undo()
    _same_by_two_processes(study_config, study, chosen, by_name)
    lost = study.run_folder(chosen[0]) / run_measures.CURVATURE
    content = lost.read_text()
    lost.unlink()
    measuring.complete(study_config, study, study.states())
    assert lost.read_text() == content, "another run's has the same start"
    more = dataclasses.replace(study_config, curvature=2)
    assert all(measuring._is_left(more, study, run) for run in chosen)

    nobody = Scores("none", {})
    rows = [run for run in outcome.read(study, study.states(), nobody) if run.scores]
    assert {run.name: run.measures for run in rows} == by_name


def _same_by_two_processes(study_config, study, chosen, by_name):
    """Files that were lost are the same when several processes measure again."""
    for run in chosen:
        for name in (run_measures.CURVATURE, run_weights.FILE):
            (study.run_folder(run) / name).unlink()
    assert measuring.complete(study_config, study, study.states(), jobs=2)
    assert {run.name: run_measures.read(study.run_folder(run)) for run in chosen} == by_name


@pytest.mark.slow
def test_it_is_the_curvature_of_the_run_s_own_batches(tmp_path):
    """Of other microbatches it is another one; of the same, the same."""
    first = measured(config(), tmp_path)
    assert measured(config(), tmp_path) == first and first.converged
    both = measured(config(), tmp_path, 2)
    assert both.value != first.value
    np.testing.assert_allclose(both.value, first.value, rtol=1)
    assert measured(config(seed_data=5), tmp_path).value != first.value
