"""Multiple-choice tasks: their questions and clusters, accuracies, and the gold choice's score."""

import dataclasses

import numpy as np
import pytest

from lfl_jax.evals import multiple_choice
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.tasks import arc_challenge, hellaswag, winogrande


def scored(*lls: float) -> list[Scored]:
    return [Scored(ll, 2, False, False) for ll in lls]


def test_twins_are_one_cluster(inputs):
    questions = winogrande.questions(inputs)
    # 0 and 1 are twins; 4 has the same two options in another sentence
    assert [q.cluster for q in questions] == ["0", "0", "2", "3", "4", "5"]
    assert len({q.id for q in questions}) == 6


def test_hellaswag_clusters_by_video_or_article(inputs):
    questions = hellaswag.questions(inputs)
    assert [q.cluster for q in questions] == ["made~1", "made~2", "made~3", "made~1", "made~4"]
    assert [q.id for q in questions] == list("01234")


def test_arc_question_with_a_ready_prompt():
    made = arc_challenge.question(
        {"id": "x", "query": "Question: Why?\nAnswer:", "choices": ["a", "b"], "gold": 1}
    )
    labels = {"text": ["a", "b"], "label": ["1", "2"]}
    assert made == arc_challenge.question(
        {"id": "x", "question": "Why?", "choices": labels, "answerKey": "2"}
    )
    assert (made.gold, made.pairs) == (
        1,
        (("Question: Why?\nAnswer:", " a"), ("Question: Why?\nAnswer:", " b")),
    )


def test_accuracies_and_probability_of_the_gold_choice():
    question = multiple_choice.Question(
        "q", "c", (("x", " aaaa"), ("x", " b"), ("x", " cc")), ("aaaa", "b", "cc"), 0
    )
    record = multiple_choice.record(question, scored(-4.0, -3.0, -5.0))
    # -3 is largest; per character -1, -3, -2.5
    assert (record["acc"], record["acc_norm"]) == (0.0, 1.0)
    p = np.exp([-4.0, -3.0, -5.0])
    assert record["gold_logprob"] == pytest.approx(np.log(p[0] / p.sum()))
    p = np.exp([-1.0, -3.0, -2.5])
    assert record["gold_logprob_norm"] == pytest.approx(np.log(p[0] / p.sum()))
    assert (record["prediction"], record["prediction_norm"], record["characters"]) == (
        1,
        0,
        [4, 1, 2],
    )


def test_choices_are_normalised_by_characters_not_bytes():
    question = multiple_choice.Question("q", "c", (("x", " éé"), ("x", " abc")), ("éé", "abc"), 1)
    record = multiple_choice.record(question, scored(-4.0, -4.5))
    # 4 bytes would win with -1 against -1.5
    assert (record["characters"], record["acc_norm"]) == ([2, 3], 1.0)


def test_the_first_of_equal_choices_wins():
    question = multiple_choice.Question("q", "c", (("x", " a"), ("x", " b")), ("a", "b"), 1)
    assert multiple_choice.record(question, scored(-1.0, -1.0))["prediction"] == 0


def test_chance_is_that_of_the_choices():
    question = multiple_choice.Question("q", "c", (("x", " a"), ("x", " b")), ("a", "b"), 1)
    third = dataclasses.replace(
        question, pairs=(*question.pairs, ("x", " c")), choices=("a", "b", "c")
    )
    records = [
        multiple_choice.record(question, scored(-1.0, -2.0)),
        multiple_choice.record(third, scored(-1.0, -2.0, -3.0)),
    ]
    found = arc_challenge.TASK.measure(records)
    assert found["acc"].chance == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert list(found) == ["acc_norm", "acc", "bits_per_byte", "gold_logprob_norm", "gold_logprob"]
    assert "acc_norm" not in winogrande.TASK.measure(records)
