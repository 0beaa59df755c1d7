"""Recall of UUID values: which pairs are asked, and how what was written is counted."""

import dataclasses

import pytest

from lfl_jax.data import uuid_pairs
from lfl_jax.data.examples import Example
from lfl_jax.errors import UserError
from lfl_jax.evals.run import Evaluation
from lfl_jax.evals.settings import Settings
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import uuid_recall

PAIRS = uuid_pairs.source(0, "train", 4, hyphens=True)
INPUTS = Inputs(problems={"train": list(PAIRS)})
ITEM = uuid_recall.pairs(INPUTS)[0]


def graded(text):
    made = uuid_recall.record(ITEM, text)
    return made["acc_char"], made["whole"]


def test_items_are_the_pairs_in_the_training_format():
    assert (ITEM.id, ITEM.prompt) == ("train/0", f"Question: {PAIRS[0].prompt}\nAnswer:")
    assert ITEM.value == PAIRS[0].response.replace("-", "") and len(uuid_recall.pairs(INPUTS)) == 4


def test_digits_count_where_they_belong():
    wrong = "0" if ITEM.value[5] != "0" else "1"
    assert graded(f" {PAIRS[0].response}") == graded(ITEM.value) == (1.0, 1.0)
    assert graded(ITEM.value[:5] + wrong + ITEM.value[6:]) == (31 / 32, 0.0)
    assert graded(ITEM.value[:8]) == (0.25, 0.0) and graded("") == (0.0, 0.0)
    assert graded(ITEM.value + "0") == (1.0, 0.0), "all digits, but not the value"
    assert graded("x" + ITEM.value)[0] < 0.5, "out of place"


def test_mean_over_values():
    records = [uuid_recall.record(ITEM, text) for text in (ITEM.value, ITEM.value[:16])]
    found = uuid_recall.TASK.measure(
        [record | {"id": str(i), "ended": 1.0} for i, record in enumerate(records)]
    )
    assert (found["acc_char"].estimate.mean, found["whole"].estimate.mean) == (0.75, 0.5)
    assert (
        found["acc_char"].chance == uuid_pairs.CHANCE_DIGIT_ACCURACY
        and next(iter(found)) == "acc_char"
    )


def test_a_model_that_knows_two_of_four_values(tmp_path, toy_model, tokenizer):
    """Through `Evaluation`: prompts reach the model, what it writes after a line break is cut."""
    known = {tuple(tokenizer.encode(p.prompt)): p.value for p in uuid_recall.pairs(INPUTS)[:2]}

    def generate(prompts, **options):
        return [f" {known.get(tuple(prompt), '')}\nQuestion: 0" for prompt in prompts]

    model = dataclasses.replace(toy_model, generate=generate)
    settings = Settings(rows=2, length=64, generate_rows=3, max_new_tokens=48, window=512)
    result = Evaluation(uuid_recall.TASK, model, INPUTS, settings).run(tmp_path)
    assert (result.items, result.metrics["acc_char"].mean, result.metrics["whole"].mean) == (
        4,
        0.5,
        0.5,
    )


def test_another_source_is_refused():
    with pytest.raises(UserError, match="needs config.data.source=uuid; 'four' is no UUID"):
        uuid_recall.pairs(Inputs(problems={"test": [Example("2 and 2?", "four", "a", "a")]}))
