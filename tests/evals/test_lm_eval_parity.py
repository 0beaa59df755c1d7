"""Requests, token ids and metrics equal those of lm-evaluation-harness 0.4.13, exactly.

On documents of our own always (fixtures made by tests/parity/lm_eval/run_lm_eval.py, which ran the
harness itself on them with the toy scorer), on samples of the real ones where they are fetched.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from lfl_jax import assets
from lfl_jax.evals import batching as planning
from lfl_jax.evals import stats
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import TASKS, gsm8k
from lfl_jax.text import tokenizers
from lfl_jax.text.stops import truncate_at_stop

CHOICE = ("hellaswag", "arc_challenge", "winogrande")
SHOTS = {"gsm8k": 5, "gsm8k_0shot": 0}
ROW = 512
PARITY = Path(__file__).parents[1] / "parity" / "lm_eval"


def multiple_choice(name, inputs, tokenizer, toy_model, indices=None):
    """Our documents in the form of the fixture, and our records; scores come through the plan."""
    task = TASKS[name]
    questions = task.items(inputs)
    questions = questions if indices is None else [questions[i] for i in indices]
    requests = [task.method.requests(question, tokenizer, ROW) for question in questions]
    plan = planning.plan(requests, 4, ROW)
    batches = planning.score_items(plan, toy_model.score, np.zeros(len(questions), bool))
    scored = dict(item for finished in batches for item in finished)
    records = [task.method.record(question, scored[i]) for i, question in enumerate(questions)]
    documents = [
        {
            "requests": [list(pair) for pair in question.pairs],
            "ids": [[list(r.context), list(r.continuation)] for r in of_question],
            "ll": record["ll"],
            "greedy": record["greedy"],
            "acc": record["acc"],
            "acc_norm": record["acc_norm"],
        }
        for question, of_question, record in zip(questions, requests, records, strict=True)
    ]
    return documents, records


def generated(inputs, shots, toy):
    """The same for GSM8K with the harness's own shots."""
    problems = gsm8k.problems(dataclasses.replace(inputs, shots=shots, shots_from="lm_eval"))
    records = [
        gsm8k.record(p, truncate_at_stop(toy.generate(p.prompt), gsm8k.TASK.method.stop))
        for p in problems
    ]
    documents = [
        {
            "requests": [[p.prompt, ""]],
            "strict-match": [r["strict"], r["exact_strict"]],
            "flexible-extract": [r["flexible"], r["exact_flexible"]],
            "response": r["text"],
            "until": list(gsm8k.TASK.method.stop),
        }
        for p, r in zip(problems, records, strict=True)
    ]
    return documents, records


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def check(documents, expected):
    """Every field the harness reported; a field that is a digest there is digested here."""
    assert len(documents) == len(expected) > 0
    for ours, theirs in zip(documents, expected, strict=True):
        for field, value in theirs.items():
            if field == "index":
                continue
            found = (
                digest(ours[field])
                if field in ("requests", "ids") and isinstance(value, str)
                else ours[field]
            )
            assert found == value, (field, ours["requests"][0])


def check_aggregates(records, results, names):
    """Mean and standard error; the harness takes every item for independent."""
    for ours, theirs in names.items():
        if f"{theirs[0]},{theirs[1]}" in results:
            found = stats.mean([r[ours] for r in records], range(len(records)))
            assert found.mean == pytest.approx(results[f"{theirs[0]},{theirs[1]}"], abs=1e-12)
            assert found.se == pytest.approx(results[f"{theirs[0]}_stderr,{theirs[1]}"], abs=1e-12)


@pytest.mark.parametrize("name", CHOICE)
def test_synthetic_questions(name, synthetic, inputs, tokenizer, toy_model):
    documents, records = multiple_choice(name, inputs, tokenizer, toy_model)
    task = synthetic["tasks"][name]
    check(documents, task["documents"])
    check_aggregates(records, task["results"], {m: (m, "none") for m in ("acc", "acc_norm")})
    assert "acc,none" in task["results"]


@pytest.mark.parametrize("name", SHOTS)
def test_synthetic_problems(name, synthetic, inputs, toy):
    documents, records = generated(inputs, SHOTS[name], toy)
    task = synthetic["tasks"][name]
    check(documents, task["documents"])
    filters = {"exact_strict": "strict-match", "exact_flexible": "flexible-extract"}
    check_aggregates(records, task["results"], {k: ("exact_match", v) for k, v in filters.items()})
    assert 0 < sum(r["exact_strict"] for r in records) < len(records)
    assert [r["exact_strict"] for r in records] != [r["exact_flexible"] for r in records]


def real(*items: str) -> dict:
    for item in items:
        if not assets.is_cached(item):
            pytest.skip(f"{item} is not fetched: python -m lfl_jax.fetch {item}")
    return json.loads((PARITY / "real.json").read_text(encoding="utf-8"))["tasks"]


@pytest.mark.parametrize("name", CHOICE)
def test_real_questions(name, toy_model):
    fixture = real("smollm2-135m", name.replace("_", "-"))[name]["documents"]
    tokenizer = tokenizers.from_gguf(assets.path("smollm2-135m", "model.gguf"))
    indices = [document["index"] for document in fixture]
    documents, _ = multiple_choice(name, Inputs(), tokenizer, toy_model, indices)
    check(documents, fixture)


@pytest.mark.parametrize("name", SHOTS)
def test_real_problems(name, toy):
    fixture = real("gsm8k-test", *["gsm8k-train"] * (SHOTS[name] > 0))[name]["documents"]
    documents, _ = generated(Inputs(), SHOTS[name], toy)
    check(documents[: len(fixture)], fixture)
