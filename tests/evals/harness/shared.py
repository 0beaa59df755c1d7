"""What the tests of lm-evaluation-harness on our models share."""

import json

from lfl_jax.errors import UserError
from lfl_jax.evals.settings import Settings

SETTINGS = Settings(rows=2, length=512, generate_rows=4, max_new_tokens=12, window=512)
ZERO_SHOT = {"hellaswag": "hellaswag", "arc_challenge": "arc-challenge", "winogrande": "winogrande"}

SUITE = {
    "pets": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "sums": {
        "output_type": "generate_until",
        "doc_to_text": "{{q}} =",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["a", "\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}
DOCS = {
    "pets": [
        {"q": "What barks?", "choices": ["a dog", "a cat", "an old teapot"], "gold": 0},
        {"q": "What purrs?", "choices": ["a dog", "a cat", "rain"], "gold": 1},
        {"q": "Zoë's pet?", "choices": ["ñandú", "cow", "none"], "gold": 2},
    ],
    "sums": [{"q": "1 + 1", "a": "2"}, {"q": "20 + 22", "a": "42"}, {"q": "3", "a": "3"}],
}


def samples(folder, task):
    """By document and filter."""
    lines = (folder / f"samples_{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return {(s["doc_id"], s["filter"]): s for s in map(json.loads, lines)}


def quiet(table):
    assert table.startswith("|")


def fetched(item):
    if item == "hellaswag":
        return [
            {"activity_label": "A", "ctx_a": "b", "ctx_b": "c", "endings": ["d", "e"], "label": "0"}
        ]
    if item == "gsm8k-test":
        return [{"question": "1+1?", "answer": "#### 2"}]
    if item == "arc-challenge":
        return [{"id": "a", "query": "Question: 1?\nAnswer:", "choices": ["b", "c"], "gold": 1}]
    raise UserError(f"{item} is not fetched: run `python -m lfl_jax.fetch {item}`")
