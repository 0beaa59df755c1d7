"""A finished run with its change scaled: the base at 0 and the run at 1, exactly."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lfl_jax.configs import base as base_config
from lfl_jax.configs.studies import base, smoke

from lfl_jax import adapters
from lfl_jax.adapters.adapter_tree import constant_mask
from lfl_jax.analysis.interventions import scaled
from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.core.sharding import make_rules
from lfl_jax.evals import scorer
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.presets import PRESETS
from lfl_jax.report import results_json
from lfl_jax.run_setup import base_model
from lfl_jax.studies import grid, outcome
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.running import derived as derived_runs
from lfl_jax.studies.running import execute
from lfl_jax.studies.running.execute import State, Study

CFG = PRESETS["tiny"]
TOKENS = jnp.arange(12)[None] % CFG.vocab_size


@pytest.fixture(scope="module")
def params():
    return base_model.random_params(CFG, 0, make_rules(devices=jax.devices()[:1]), "float32")


def trained(params, kind):
    """A model tuned from these: an adapter of a kind, or other parameters in the first block."""
    key = jax.random.key(1)
    if kind == "none":
        attn = params["layers"]["attn"]
        tuned = {name: x + 0.05 * jax.random.normal(key, x.shape) for name, x in attn.items()}
        return Model(params=params | {"layers": params["layers"] | {"attn": tuned}}, adapter={})
    c = base_config.base()
    c.adapter.kind, c.adapter.rank = kind, 2
    specs = adapters.specs(llama.specs(CFG), Config.from_dict(c).adapter)
    adapter = adapters.init(specs, params, key)
    moved = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(key, x.shape), adapter)
    # Constants stay as they are: they are no part of what trained.
    constant = constant_mask(adapter)
    return Model(
        params=params, adapter=jax.tree.map(lambda x, y, c: x if c else y, adapter, moved, constant)
    )


FORWARD = jax.jit(llama.forward, static_argnums=3)


def hidden(model):
    return np.asarray(FORWARD(model.params, model.adapter, TOKENS, CFG)[0])


# LoRA's own scaling is one of the laws of adapters; DoRA's change has a part beside the low-rank one.
@pytest.mark.parametrize("kind", ["none", "dora"])
def test_the_base_at_0_and_the_run_at_1(params, kind):
    own, tuned = Model(params=params, adapter={}), trained(params, kind)
    assert not np.array_equal(hidden(tuned), hidden(own))
    assert np.array_equal(hidden(scaled(own, tuned, 0.0).model), hidden(own))
    assert np.array_equal(hidden(scaled(own, tuned, 1.0).model), hidden(tuned))
    half = scaled(own, tuned, 0.5).model
    merged = [adapters.merge(x.adapter, x.params) if x.adapter else x.params for x in (tuned, half)]
    weights = [tree["layers"]["attn"]["q"] for tree in (params, *merged)]
    changes = [np.asarray(weight - weights[0]) for weight in weights[1:]]
    assert np.allclose(changes[1], 0.5 * changes[0], atol=1e-6) and np.abs(changes[0]).max() > 1e-3


def test_without_its_run_it_says_what_it_needs(tmp_path):
    values = smoke.get_config().to_dict()
    values["arms"]["half"] = base.derived("lora", scales=(0.5,)).to_dict()
    runs = grid.expand(grid.read(values))
    study = Study(tmp_path / "study", runs)
    only = "^half-0.001.*s0"
    assert execute.execute(study, only=only, quiet=True)
    (end,) = study.ended().values()
    assert end.state is State.FAILED
    assert end.reason == "lora-0.001-4-s0, whose change it alters, has not finished"
    # It is given to a process only when its run has ended.
    (run,) = execute.select(runs, only)
    source = next(other for other in runs if other.name == run.source)
    assert execute._is_ready(run, [runs[-1]]) and not execute._is_ready(run, [runs[-1], source])


@pytest.mark.slow
def test_a_study_of_every_intervention(tmp_path):
    curves = {
        "cut": {"truncate": (1, 2)},
        "fewer": {"intruders": (0.0, 0.5, 1.0)},
        "control": {"random_directions": (0.0, 0.5)},
        "part": {"without": ("attn", "layers/0")},
    }
    values = smoke.get_config().to_dict()
    for arm, curve in curves.items():
        for of in ("lora", "full"):
            values["arms"][f"{arm}_{of}"] = base.derived(of, **curve).to_dict()
    values["seeds"] = (0,)
    study = Study(tmp_path / "study", grid.expand(grid.read(values)))
    only = "lora-0.01-|full-0.001-"
    programs = {}
    for run in execute.select(study.runs, only):
        assert execute.execute(study, only=f"^{re.escape(run.name)}$", quiet=True)
        programs[run.name] = scorer._score_rows._cache_size()
    states = study.states()
    chosen = execute.select(study.runs, only)
    assert {states[run.name] for run in chosen} == {State.FINISHED}

    # No point of a curve compiles what an earlier one of its curve has compiled.
    for arm in dict.fromkeys(run.arm for run in chosen if run.source):
        first, *others = [run.name for run in chosen if run.arm == arm]
        assert {programs[name] for name in others} == {programs[first]}, arm
    facts = {run.name: results_json.saved_facts(study.run_folder(run)) for run in chosen}
    derived = {name: fact["provenance"].get("derived") for name, fact in facts.items()}
    for run in chosen:
        if run.source:
            known = {"run": run.source, "intervention": run.point.intervention}
            assert known.items() <= derived[run.name].items()
            assert derived[run.name]["value"] == run.point.value
    assert derived["cut_lora-0.01-4-s0-rank_2"]["relative_error"] < 1e-5
    assert 0 < derived["cut_lora-0.01-4-s0-rank_1"]["relative_error"] < 1
    assert derived["part_full-0.001-4-s0-without_layers.0"]["weights"] > 7

    # The curves of one run and its control read one decomposition.
    assert len(list(study.folder.glob(f"runs/*/{derived_runs.COMPONENTS}"))) == 2

    def nll(name):
        return files.read_jsonl(study.folder / "runs" / name / "evals/after/target_nll.jsonl")[1:]

    for of in ("lora-0.01-4-s0", "full-0.001-4-s0"):
        assert nll(f"fewer_{of}-intruders_x1") == nll(of) != nll(f"part_{of}-without_attn")
    findings = outcome.read(study, states, Scores("base", {}))
    rows = {(run.method, str(run.cell)) for run in findings if run.scores}
    assert ("part_full", "lr 0.001, step 4, without layers/0") in rows


@pytest.mark.slow
def test_a_study_with_scaled_changes(tmp_path):
    values = smoke.get_config().to_dict()
    scales = (0.0, 0.5, 1.0)
    for arm in ("lora", "full"):
        values["arms"][f"{arm}_scaled"] = base.derived(arm, scales=scales).to_dict()
    values["seeds"] = (0,)
    study = Study(tmp_path / "study", grid.expand(grid.read(values)))
    only = "lora.*-0.01-|full.*-0.001-"
    assert execute.execute(study, only=only, quiet=True)
    chosen = execute.select(study.runs, only)
    assert {study.states()[run.name] for run in chosen} == {State.FINISHED}

    def records(run, when="after"):
        folder = study.run_folder(run) / "evals" / when
        # Without the header, whose tag names the model.
        return {file.name: files.read_jsonl(file)[1:] for file in folder.glob("*.jsonl")}

    def exactly_base(scores):
        kl = scores.pop("target_kl.jsonl")
        assert {record[name] for record in kl for name in record if name.endswith("kl")} == {0.0}
        return scores

    for run in chosen:
        if not run.source:
            continue
        source = next(other for other in chosen if other.name == run.source)
        assert records(run, "before") == records(source, "before")
        if run.point.scale == 1:
            assert records(run) == records(source)
        elif run.point.scale == 0:
            before = records(source, "before")
            before.pop("target_kl.jsonl", None)
            assert exactly_base(records(run)) == before
        else:
            assert records(run) != records(source)
    rows = [
        (run.method, str(run.cell))
        for run in outcome.read(study, study.states(), Scores("base", {}))
        if run.scores
    ]
    assert ("lora_scaled", "lr 0.01, step 4, scale 0.5") in rows

    # A file that was cut off is completed, with the same scores.
    lost = next(run for run in chosen if run.point.scale == 0.5)
    whole = records(lost)
    file = study.run_folder(lost) / "evals/after/source_nll.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    assert study.states()[lost.name] is State.LEFT
    assert execute.execute(study, only=only, quiet=True)
    assert records(lost) == whole
