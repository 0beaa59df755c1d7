"""target_kl and source_kl in whole runs: exactly 0 before training, and something after it."""

import dataclasses
import json

import numpy as np
import pytest

import lfl_jax
from lfl_jax import evaluate
from lfl_jax.errors import UserError
from lfl_jax.evals import records
from lfl_jax.evals.run import Evaluation
from lfl_jax.evals.settings import Settings
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import find
from lfl_jax.run_setup import base_model
from lfl_jax.studies import records as study_records

KL = ("target_kl", "source_kl")
LITTLE = {
    "train.steps": 2,
    "train.batch": 2,
    "eval.rows": 2,
    "eval.tasks": ("target_nll:2", "source_nll:2", "target_kl:2", "source_kl:2"),
    "eval.every_tasks": ("target_nll:1",),
    "eval.decontaminate": False,
    "log.tensorboard": False,
}


@pytest.mark.slow
@pytest.mark.parametrize("words", ["r=4", "full"])
def test_a_run_diverges_from_its_base_by_training_alone(tmp_path, words, monkeypatch):
    loads = []
    load = base_model.load
    monkeypatch.setattr(base_model, "load", lambda *args: loads.append(args) or load(*args))
    texts = tmp_path / "texts.txt"
    texts.write_text("Every leaf of the tree is green.\n\nThe river runs slowly to the sea.\n")
    config = lfl_jax.get_config(
        f"math_ift:smoke,{words}", **LITTLE | {"eval.source_text": str(texts)}
    )
    outcome = lfl_jax.run(config, tmp_path / "run", quiet=True)
    assert len(loads) == (2 if words == "full" else 1), "the base is read again where it trained"

    for name in KL:
        before, after = outcome.before[name], outcome.after[name]
        for metric in ("forward_kl", "reverse_kl"):
            assert set(before.measured[metric].column.totals) == {0.0}
            assert min(after.measured[metric].column.totals) > 0
        # The positions and items of the likelihood.
        same = outcome.after[name.replace("kl", "nll")].main.column
        assert after.main.column.weights == same.weights and after.main.column.ids == same.ids

    # A reader of run directories, for the contrasts at equal divergence, finds the same.
    before, after = study_records.read(str(tmp_path / "run"))
    assert (
        after.tasks["target_kl"]["forward_kl"].estimate == outcome.after["target_kl"].main.estimate
    )
    _, made = records.read(tmp_path / "run" / "evals" / "after" / "source_kl.jsonl")
    assert set(made[0]) == {"id", "cluster", "tokens", "forward_kl", "reverse_kl"}

    # From the checkpoint and the base that the command loads, the same numbers.
    out = tmp_path / "out"
    tasks = "--tasks=target_kl:2,source_kl:2"
    evaluate.main(["evaluate", f"--run={tmp_path / 'run'}", f"--out={out}", tasks])
    rows = json.loads((out / "results.json").read_text())["rows"]
    again = {(row["task"], row["metric"], row["variant"]): row["estimate"] for row in rows}
    for name in KL:
        wanted = outcome.after[name].main.estimate.mean
        assert again[name, "forward_kl", "after"] == pytest.approx(wanted, rel=1e-4)
        assert again[name, "forward_kl", "before"] == 0


def test_a_model_without_a_base_cannot_diverge(tmp_path, toy_model):
    inputs = Inputs(source_text=["a b c d", "e f g"])
    settings = Settings(rows=2, length=40, generate_rows=2, max_new_tokens=4, window=64)
    with pytest.raises(UserError, match="source_kl compares a model with its base"):
        Evaluation(find("source_kl"), toy_model, inputs, settings).run(tmp_path)


def test_records_sum_over_the_tokens_that_are_scored(tmp_path, toy_model):
    """A scorer whose divergence is 1 and 2 nats at every position, also those that do not count."""

    def diverge(rows):
        ones = np.ones(rows["tokens"].shape, np.float32)
        return ones, 2 * ones

    model = dataclasses.replace(toy_model, diverge=diverge)
    inputs = Inputs(source_text=["a b c d " * 20, "e f g"])
    settings = Settings(rows=2, length=40, generate_rows=2, max_new_tokens=4, window=64)
    result = Evaluation(find("source_kl"), model, inputs, settings).run(tmp_path / "kl")
    nll = Evaluation(find("source_nll"), model, inputs, settings).run(tmp_path / "nll")
    tokens = nll.main.column.weights
    assert max(tokens) > 40, "several windows"
    assert result.main.column.totals == result.main.column.weights == tokens
    assert result.measured["reverse_kl"].estimate.mean == 2
