"""target_kl and source_kl in whole runs: exactly 0 before training, and something after it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for

import lfl_jax
from lfl_jax import adapters, evaluate, sample
from lfl_jax.core.sharding import make_rules
from lfl_jax.data.examples import Example
from lfl_jax.data.formatting import prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.evals import records, scorer
from lfl_jax.evals.requests import prefix_id
from lfl_jax.evals.run import Evaluation
from lfl_jax.evals.settings import Settings
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import find
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.run_setup import base_model
from lfl_jax.studies import records as study_records
from lfl_jax.text.chat import TEMPLATES
from lfl_jax.text.tokenizers import byte_tokenizer

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


def sampling(small, params, adapter, **options):
    model = Model(params=params, adapter=adapter)
    rules = make_rules()
    return scorer.build(model, small, byte_tokenizer(), rules, "test", generate_rows=2, **options)


PROMPTS = ("abc", "de", "fgh")
SETTINGS = Settings(rows=2, length=40, generate_rows=2, max_new_tokens=6, window=64)


def log_softmax(params, tokens, cfg):
    """Of every next token, (T, V) in float64."""
    forward = jax.jit(llama.forward, static_argnames="cfg")
    hidden, _ = forward(params, None, tokens, cfg=cfg)
    logits = np.asarray(llama.logits(params, hidden), np.float64)[0]
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def on_base_samples(model, folder, settings=SETTINGS):
    """base_sample_kl of a scorer after PROMPTS, and after nothing."""
    targets = [Example(prompt, "x", id=prompt, cluster=prompt) for prompt in (*PROMPTS, "")]
    inputs = Inputs(target=targets, template=TEMPLATES["bare"])
    return Evaluation(find("base_sample_kl"), model, inputs, settings).run(folder)


def test_the_divergence_on_what_the_base_samples_is_its_definition(tmp_path, small, small_params):
    """Against whole logits in float64, at the tokens that the base samples by itself."""
    tokenizer, tuned = byte_tokenizer(), adapter_for(small, small_params)
    result = on_base_samples(sampling(small, small_params, tuned), tmp_path / "tuned")

    render = TEMPLATES["bare"].render
    prompts = [prompt_ids(render(prompt, "x")[0], tokenizer) for prompt in PROMPTS]
    prompts.append([prefix_id(tokenizer)])
    options = {"max_new_tokens": 6, "eos_id": tokenizer.eos_id, "temperature": 1.0}
    base = Model(params=small_params, adapter={})
    answers = sample.generate(base, prompts, small, **options)

    merged = adapters.merge(tuned, small_params)
    expected = []
    for prompt, answer in zip(prompts, answers, strict=True):
        # Padded to one shape; nothing attends to what comes later.
        tokens = (
            jnp.zeros((1, 24), int).at[0, : len(prompt + answer)].set(jnp.array(prompt + answer))
        )
        log_p, log_q = (log_softmax(params, tokens, small) for params in (small_params, merged))
        kl = np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)
        expected.append(kl[len(prompt) - 1 : len(prompt + answer) - 1].sum())
    column = result.main.column
    by_id = dict(zip(column.ids, column.totals, strict=True))
    np.testing.assert_allclose([by_id[name] for name in (*PROMPTS, "")], expected, rtol=1e-4)
    assert result.measured["forward_kl_answer"].estimate.mean == pytest.approx(np.mean(expected))


def test_every_model_of_a_base_reads_the_same_samples(tmp_path, small, small_params):
    fresh, trained = (adapter_for(small, small_params, trained=t) for t in (False, True))
    other = jax.tree.map(lambda x: x * 1.1, small_params)
    models = {
        "base": sampling(small, small_params, trained, adapted=False),
        "identity": sampling(small, small_params, fresh, seed=3),
        "tuned": sampling(small, small_params, trained, seed=4),
        "full": sampling(small, other, {}, base_params=lambda: small_params),
    }
    options = {"max_new_tokens": 6, "example_ids": [0, 1]}
    samples = {name: m.sample_base([[65, 66], [67]], **options) for name, m in models.items()}
    assert samples["base"] == samples["identity"] == samples["tuned"] == samples["full"]
    assert samples["base"] != models["base"].sample_base(
        [[65, 66], [67]], **options | {"example_ids": [2, 3]}
    )

    results = {name: on_base_samples(model, tmp_path / name) for name, model in models.items()}
    weights = {name: one.main.column.weights for name, one in results.items()}
    assert len(set(weights.values())) == 1
    for name in ("base", "identity"):
        assert set(results[name].main.column.totals) == {0.0}
    for name in ("tuned", "full"):
        assert min(results[name].main.column.totals) > 0


def test_answers_that_fit_nowhere_and_models_without_a_base(
    tmp_path, small, small_params, toy_model
):
    tight = dataclasses.replace(SETTINGS, length=16, max_new_tokens=17)
    with pytest.raises(UserError, match="max_new_tokens=17 leaves no room in rows of 16 tokens"):
        on_base_samples(sampling(small, small_params, {}), tmp_path / "tight", tight)
    with pytest.raises(UserError, match="base_sample_kl compares a model with its base"):
        on_base_samples(toy_model, tmp_path / "alone")
