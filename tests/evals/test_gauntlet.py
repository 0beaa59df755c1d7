"""The Gauntlet's three tasks: its prompts, its draw of shots, and the choice of the lowest mean
cross-entropy."""

import dataclasses
import random

import numpy as np
import pytest

from lfl_jax import assets
from lfl_jax.assets import readers
from lfl_jax.evals import batching as planning
from lfl_jax.evals import records
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import gauntlet
from lfl_jax.text.tokenizers import byte_tokenizer

TASKS = (gauntlet.HELLASWAG, gauntlet.ARC_CHALLENGE, gauntlet.WINOGRANDE)
ROW = 512
# By llm-foundry's get_fewshot_sample_idxs(6, 3, i, rng), one rng of seed 1234 for i = 0 .. 5.
DRAWN = [[3, 4, 5], [0, 4, 5], [0, 1, 5], [1, 4, 5], [0, 1, 5], [0, 3, 4]]


def questions(n: int) -> list[Question]:
    return [
        Question(
            f"q{i}",
            f"c{i}",
            ((f"Question: {i}?\nAnswer:", " no"), (f"Question: {i}?\nAnswer:", f" {i}")),
            (),
            1,
        )
        for i in range(n)
    ]


def per_token(context: list[int], continuation: list[int], toy) -> list[float]:
    """The log-probability of each token of a continuation, one token at a time."""
    return [
        toy.score([*context, *continuation[:i]], continuation[i : i + 1])[0]
        for i in range(len(continuation))
    ]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_lowest_mean_cross_entropy_wins(task, inputs, tokenizer, toy, toy_model):
    """Against a loop over choices and tokens: contexts and continuations put together and encoded
    by hand."""
    items = task.items(inputs)
    plan = planning.plan([task.method.requests(item, tokenizer, ROW) for item in items], 4, ROW)
    batches = planning.score_items(plan, toy_model.score, np.zeros(len(items), bool))
    scored = dict(pair for finished in batches for pair in finished)
    by_sum = 0
    for i, item in enumerate(items):
        means, sums = [], []
        for context, continuation in item.pairs:
            ids = toy.encode(item.shots) + toy.encode(context)
            values = per_token(ids, toy.encode(" " + continuation.removeprefix(" ")), toy)
            means.append(-sum(values) / len(values))
            sums.append(-sum(values))
        record = task.method.record(item, scored[i])
        assert record["nll_per_token"] == pytest.approx(means, abs=1e-9)
        assert record["prediction"] == means.index(min(means))
        assert record["acc"] == float(means.index(min(means)) == item.gold)
        p = np.exp(-np.array(means))
        assert record["gold_logprob_norm"] == pytest.approx(np.log(p[item.gold] / p.sum()))
        by_sum += means.index(min(means)) != sums.index(min(sums))
    assert len(items) >= 5
    # of the few questions here, only its sums choose otherwise
    assert by_sum > 0 or task is not gauntlet.HELLASWAG


def test_length_decides_by_the_mean():
    choice = gauntlet.Choice("q", "c", "", (("x", "long one"), ("x", "short")), 0)
    record = gauntlet.record(choice, [Scored(-6.0, 4, False, False), Scored(-2.0, 1, False, True)])
    # 1.5 against 2 nats a token
    assert (record["prediction"], record["acc"], record["truncated"]) == (0, 1.0, True)
    assert record["gold_logprob"] == pytest.approx(-np.log(1 + np.exp(4.0)))
    equal = [Scored(-2.0, 2, False, False), Scored(-1.0, 1, False, False)]
    assert gauntlet.record(choice, equal)["prediction"] == 0


def test_shots_are_others_with_their_right_choices():
    choices = gauntlet.after_shots(questions(12), 3)
    for i, choice in enumerate(choices):
        turns = choice.shots.split("\nQuestion: ")
        assert len(turns) == 3
        assert choice.shots.startswith("Question: ")
        numbers = [int(turn.removeprefix("Question: ").partition("?")[0]) for turn in turns]
        assert i not in numbers and len(set(numbers)) == 3
        assert all(turn.endswith(f"?\nAnswer: {n}") for turn, n in zip(turns, numbers, strict=True))
        assert choice.pairs[0] == (f"\nQuestion: {i}?\nAnswer:", "no")
    assert len({choice.shots for choice in choices}) > 8


def test_without_shots_nothing_stands_before_the_question():
    (choice,) = gauntlet.after_shots(questions(1), 0)
    assert (choice.shots, choice.pairs[1]) == ("", ("Question: 0?\nAnswer:", "0"))


def test_one_stream_of_draws_serves_all_questions():
    """A draw that hits the question itself takes another; the numbers were drawn by llm-foundry's
    own function."""
    rng = random.Random(gauntlet.SEED)
    assert [gauntlet.draw(6, 3, i, rng) for i in range(6)] == DRAWN
    assert len(gauntlet.draw(3, 5, 0, rng)) == 2


def test_number_of_shots_is_the_gauntlet_s_whatever_the_config_says(inputs):
    for task in TASKS:
        assert task.items(dataclasses.replace(inputs, shots=2)) == task.items(inputs)
    assert all(item.shots == "" for item in gauntlet.hellaswag_choices(inputs))
    assert all(item.shots.count("Question: ") == 3 for item in gauntlet.arc_choices(inputs))
    assert all(item.shots.count("\n") == 4 for item in gauntlet.winogrande_choices(inputs))


def test_winogrande_scores_one_continuation_under_two_contexts(inputs):
    for item in gauntlet.winogrande_choices(inputs):
        assert item.pairs[0][0] != item.pairs[1][0]
        assert item.pairs[0][1] == item.pairs[1][1]


def test_parts_are_encoded_one_by_one(tokenizer, toy):
    """In "Answer: 9" the toy's colon would take the space; here the space is the continuation's."""
    choice = gauntlet.Choice("q", "c", "Answer:", (("\nAnswer:", "9"), ("\nAnswer:", " 9")), 0)
    found = gauntlet.requests(choice, dataclasses.replace(tokenizer, add_bos=True), ROW)
    context = (toy.BOS, *toy.encode("Answer:"), *toy.encode("\nAnswer:"))
    assert [(r.context, r.continuation) for r in found] == [(context, tuple(toy.encode(" 9")))] * 2
    cut = gauntlet.requests(choice, tokenizer, 2)[0]
    assert cut.truncated and len(cut.ids) == 3


def test_a_tokenizer_that_puts_a_space_itself_gets_none():
    plain = byte_tokenizer()
    prefixing = dataclasses.replace(plain, encode=lambda text: plain.encode(f" {text}"))
    choice = gauntlet.Choice("q", "c", "", (("x", "9"),), 0)
    assert bytes(gauntlet.requests(choice, plain, ROW)[0].continuation) == b" 9"
    assert bytes(gauntlet.requests(choice, prefixing, ROW)[0].continuation) == b" 9"


def test_chance_and_metrics(inputs):
    choice = gauntlet.Choice("q", "c", "", (("x", "a"), ("x", "b")), 1)
    records = [
        gauntlet.record(choice, [Scored(-1.0, 1, False, False), Scored(-2.0, 1, False, False)])
    ]
    found = gauntlet.HELLASWAG.measure(records)
    assert (found["acc"].chance, list(found)) == (
        0.5,
        ["acc", "bits_per_byte", "gold_logprob_norm", "gold_logprob"],
    )


@pytest.mark.parametrize(
    ("task", "asset", "count", "digest"),
    [
        (gauntlet.HELLASWAG, "hellaswag", 300, "e29a1f839b729b55"),
        (gauntlet.ARC_CHALLENGE, "arc-challenge", 1172, "7bb4353c13e7a39b"),
        (gauntlet.WINOGRANDE, "winogrande", 1267, "7f7b87b5d473495c"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_real_prompts(task, asset, count, digest):
    """The texts that llm-foundry's own functions (8c8dd48, 2025-07) made of these documents, by
    their digest."""
    if not assets.is_cached(asset):
        pytest.skip(f"{asset} is not fetched: python -m lfl_jax.fetch {asset}")
    items = task.items(Inputs(docs=lambda name: readers.docs(name)[:count]))
    assert len(items) == count
    assert (
        records.digest([[c.shots, [list(pair) for pair in c.pairs], c.gold] for c in items])
        == digest
    )
