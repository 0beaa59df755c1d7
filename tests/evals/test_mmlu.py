"""MMLU: prompts, letters, dev examples, files, and the mean over subjects."""

import dataclasses
import json

import pytest

from lfl_jax.assets import readers
from lfl_jax.errors import UserError
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import mmlu


def doc(subject: str, n: int, answer) -> dict:
    return {
        "question": f" What is {n}? ",
        "choices": ["w", "x", "y", "z"],
        "answer": answer,
        "subject": subject,
    }


TEST = [
    doc("high_school_physics", 1, 2),
    doc("anatomy", 2, "A"),
    doc("high_school_physics", 3, "3"),
]
DEV = [doc(subject, n, n % 4) for subject in ("anatomy", "high_school_physics") for n in range(6)]


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(docs=lambda name: {"mmlu-test": TEST, "mmlu-dev": DEV}[name])


def test_prompt_without_shots(inputs):
    questions = mmlu.TASK.items(inputs)
    assert [(q.id, q.gold) for q in questions] == [
        ("high_school_physics/0", 2),
        ("high_school_physics/1", 3),
        ("anatomy/0", 0),
    ]
    head = (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
    )
    context = head + "What is 1?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    assert questions[0].pairs == tuple((context, f" {letter}") for letter in "ABCD")


def test_five_dev_examples_of_the_subject(inputs):
    question = mmlu.FIVE_SHOT.items(inputs)[2]
    turns = question.pairs[0][0].split("\n\n")
    assert turns[0] == "The following are multiple choice questions (with answers) about anatomy."
    assert turns[1:6] == [
        f"What is {n}?\nA. w\nB. x\nC. y\nD. z\nAnswer: {'ABCDA'[n]}" for n in range(5)
    ]
    assert turns[6] == "What is 2?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    few = dataclasses.replace(
        inputs, docs=lambda name: {"mmlu-test": TEST, "mmlu-dev": DEV[:10]}[name]
    )
    with pytest.raises(
        UserError, match="5 shots: subject 'high_school_physics' has 4 dev questions"
    ):
        mmlu.FIVE_SHOT.items(few)


def test_means_over_questions_and_over_subjects(inputs):
    best = {"high_school_physics/0": 2, "high_school_physics/1": 0, "anatomy/0": 0}
    made = [
        mmlu.TASK.method.record(
            q, [Scored(-1.0 - (i != best[q.id]), 1, False, False) for i in range(4)]
        )
        for q in mmlu.TASK.items(inputs)
    ]
    found = mmlu.TASK.measure(made)
    assert found["acc"].estimate.mean == pytest.approx(2 / 3)
    assert found["acc_subject_mean"].estimate.mean == 0.75
    assert found["acc"].chance == 0.25


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "headless"])
def test_files(tmp_path, inputs, ending):
    """One file with subjects, or a folder of the authors' tables, one for each subject."""
    if ending == "jsonl":
        (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, TEST)))
    if ending == "json":
        (tmp_path / "all.json").write_text(json.dumps(TEST))
    if ending == "csv":
        rows = [f"{d['subject']},{d['question']},w,x,y,z,{d['answer']}" for d in TEST]
        (tmp_path / "all.csv").write_text("\n".join(["subject,question,A,B,C,D,answer", *rows]))
    if ending == "headless":
        for subject in ("high_school_physics", "anatomy"):
            rows = [
                f"{d['question']},w,x,y,z,{d['answer']}" for d in TEST if d["subject"] == subject
            ]
            (tmp_path / f"{subject}_test.csv").write_text("\n".join(rows))
    (tmp_path / "notes.txt").write_text("not a table")
    found = mmlu.TASK.items(Inputs(docs=readers.with_files({"mmlu-test": str(tmp_path)})))
    assert sorted(found, key=lambda q: q.id) == sorted(mmlu.TASK.items(inputs), key=lambda q: q.id)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["a", "b"]}, "expected four choices, as choices or A to D"),
        ({"answer": "E"}, "an answer is A to D or 0 to 3, not 'E'"),
        ({"answer": None}, "not 'None'"),
    ],
)
def test_malformed_documents(change, message):
    with pytest.raises(UserError, match=message):
        mmlu.TASK.items(Inputs(docs=lambda name: [TEST[0] | change]))


def test_a_document_without_a_subject():
    with pytest.raises(UserError, match="a document has no subject; its fields are question"):
        mmlu.TASK.items(Inputs(docs=lambda name: [{"question": "?"}]))
