"""The harness's own model on the same weights (SmolLM2): prompts, ids, scores, texts, metrics."""

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evals.harness.shared import SETTINGS, ZERO_SHOT, quiet, samples
from lfl_jax.configs import math_ift

from lfl_jax import assets
from lfl_jax.assets import readers
from lfl_jax.config import Config
from lfl_jax.core.sharding import make_rules
from lfl_jax.evals import records, scorer
from lfl_jax.evals.harness import bridge
from lfl_jax.evals.harness.bridge import harness
from lfl_jax.evals.settings import Settings
from lfl_jax.run_setup import base_model

COMMITTED = Path(__file__).parents[2] / "parity" / "lm_eval_bridge" / "smollm2.json"
PARITY = Path(os.environ.get("LM_EVAL_FIXTURE", COMMITTED))


@pytest.fixture(scope="module")
def real():
    """What HFLM made of SmolLM2 (tests/parity/make_lm_eval_bridge.py), and our evaluation of the
    same documents."""
    for item in ("smollm2-135m", *ZERO_SHOT.values(), "gsm8k-test", "boolq"):
        if not assets.is_cached(item):
            pytest.skip(f"{item} is not fetched: python -m lfl_jax.fetch smollm2-135m evals")
    fixture = json.loads(PARITY.read_text(encoding="utf-8"))
    base = base_model.load(Config.from_dict(math_ift.get_config()), make_rules())
    model = base.model
    rules, tokenizer = make_rules(), base.tokenizer
    return fixture, scorer.build(model, base.cfg, tokenizer, rules, "smollm2", generate_rows=8)


def compare(tmp_path, real, name, most):
    """Prompts and token ids exactly, log-probabilities to 2e-3, answers and metrics exactly."""
    fixture, judged = real
    task, _, shots, length, tokens, chat = fixture["cases"][name]["case"]
    everything = fixture["cases"][name]["documents"]
    wanted = everything[:most]
    settings = Settings(
        rows=1, length=min(length, 512), generate_rows=8, max_new_tokens=256, window=length
    )
    options = {"gen_kwargs": {"max_gen_toks": tokens}} if task == "gsm8k" else {}
    found = bridge.run(
        judged,
        [task],
        settings,
        out=tmp_path / name,
        num_fewshot=shots,
        chat=chat,
        docs=lambda item: chosen(item, [document["index"] for document in wanted]),
        report=quiet,
        **options,
    )
    made = samples(tmp_path / name, task)
    for position, document in enumerate(wanted):
        of_document = {name: sample for (doc, name), sample in made.items() if doc == position}
        check(harness(judged, settings), of_document, document)
    if wanted == everything:
        for metric, value in fixture["cases"][name]["results"].items():
            assert found[task][metric] == pytest.approx(value, abs=1e-12), metric


def chosen(item, indices):
    docs = readers.docs(item)
    return docs if item == "gsm8k-train" else [docs[i] for i in indices]


def check(lm, made, wanted):
    """One document of the fixture; `made` are our samples of it by filter."""
    arguments = [tuple(a) for a in next(iter(made.values()))["arguments"]]
    if "text" in wanted:
        assert records.digest(arguments[0][0]) == wanted["prompt"]
        assert records.digest(lm.tok_encode(arguments[0][0])) == wanted["ids"]
        for name, sample in made.items():
            assert sample["resps"][0][0] == wanted["text"]
            assert [sample["filtered_resps"][0], sample["exact_match"]] == wanted[name]
        return
    assert records.digest(arguments) == wanted["prompt"]
    assert records.digest([lm._encode_pair(*a) for a in arguments]) == wanted["ids"]
    scores = [r[0] for r in made["none"]["resps"]]
    np.testing.assert_allclose([ll for ll, _ in scores], wanted["ll"], rtol=0, atol=2e-3)
    assert [greedy for _, greedy in scores] == wanted["greedy"]
    for metric in {"acc", "acc_norm"} & set(wanted):
        assert made["none"][metric] == wanted[metric]


@pytest.mark.parametrize(
    "name",
    [
        "hellaswag",
        *(pytest.param(name, marks=pytest.mark.slow) for name in (*ZERO_SHOT, "gsm8k")[1:]),
    ],
)
def test_smollm2_is_judged_as_by_hflm(tmp_path, real, name):
    compare(tmp_path, real, name, 2 if name == "gsm8k" else 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", json.loads(PARITY.read_text(encoding="utf-8"))["cases"])
def test_smollm2_is_judged_as_by_hflm_on_all(tmp_path, real, name):
    if real[0]["cases"][name]["case"][2] and not assets.is_cached("gsm8k-train"):
        pytest.skip("gsm8k-train is not fetched: python -m lfl_jax.fetch gsm8k-train")
    compare(tmp_path, real, name, None)


@pytest.mark.slow
def test_texts_are_scored_as_by_hflm(real):
    fixture, judged = real
    wanted = fixture["rolling"]
    lm = harness(judged, dataclasses.replace(SETTINGS, rows=1, length=wanted["length"]))
    asked = [
        SimpleNamespace(args=(doc["passage"],))
        for doc in readers.docs("boolq")[: len(wanted["ll"])]
    ]
    np.testing.assert_allclose(lm.loglikelihood_rolling(asked), wanted["ll"], rtol=0, atol=1e-2)
