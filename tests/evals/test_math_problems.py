"""MATH: answers out of solutions, when two are the same, prompts and records."""

import dataclasses
import importlib
import json
import sys

import pytest

from lfl_jax import assets, evaluate, main
from lfl_jax.assets import readers
from lfl_jax.errors import UserError
from lfl_jax.evals import records
from lfl_jax.evals.grading import math_answers
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import check_tasks, math_problems
from lfl_jax.run_setup import base_model

DOCS = [
    {"problem": "Half of 3?", "solution": r"It is $\boxed{\frac{3}{2}}$.", "type": "Algebra"},
    {
        "problem": "2 and 2?",
        "solution": r"So \boxed{4}, no, $\boxed 5$ in all.",
        "subject": "prealgebra",
    },
]


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(docs=lambda name: {"math-test": DOCS}[name])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{1} and \boxed{\frac{2}{3}}.", r"\frac{2}{3}"),
        (r"so $\boxed 7$ in all", "7"),
        (r"$\boxed 6$, no, $\boxed 7$", "7"),
        (r"\fbox{a_{1}} is left", "a_{1}"),
        (r"\boxed{x", math_answers.INVALID),
        (r"\boxedx", math_answers.INVALID),
        ("42", math_answers.INVALID),
        (r"\boxed{}", ""),
    ],
)
def test_boxed(text, answer):
    assert math_answers.boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("$1$ or $2$", "1$ or $2"), ("it is $5", "it is $5"), (" 7", " 7"), ("$$3$$ ok", "$3$")],
)
def test_between_dollars(text, answer):
    assert math_answers.between_dollars(text) == answer


def test_final_sentence():
    assert (
        math_answers.final("So.\nFinal Answer: The final answer is $[2,5)$. I hope it is correct.")
        == "[2,5)"
    )
    # cut off where the sentence begins
    assert math_answers.final("Final Answer: The final answer is 3. ") == "3"
    assert math_answers.final("The answer is 3.") == math_answers.INVALID


# What is_equiv of lm-evaluation-harness 0.4.13 (hendrycks_math) says; it was also compared on
# 165,000 made pairs.
@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (r"\dfrac{1}{2}", r"\tfrac12", True),
        (r"\frac1{72}", r"\frac{1}{72}", True),
        ("1/2", r"\frac{1}{2}", True),
        ("0.5", r"\frac12", True),
        (".5", "0.5", True),
        ("0.50", "0.5", False),
        ("01/2", "1/2", False),
        ("x = 5", "5", True),
        ("abc=5", "5", False),
        (r"\sqrt3", r"\sqrt{3}", True),
        (r"90^\circ", "90", True),
        (r"90^{\circ}", "90", True),
        (r"5\text{ cm}", "5", True),
        (r"5\text{ cm}\text{ high}", "5", False),
        (r"5\text{ cm}\text{ high}", r"5\text{ cm}\text{ high}", True),
        (r"50\%", "50", True),
        ("50%", "50", False),
        (r"\$ 12", "12", True),
        (r"\left( 1, 2 \right)", "(1,2)", True),
        (r"1\!000", "1000", True),
        ("1,000", "1000", False),
        ("a/b", r"\frac{a}{b}", False),
        ("a/b", "a/b", True),
        ("a /b", "a/b", False),  # what cannot be normalised is compared as written
        (r"2\frac", "2", False),
        (r"2\frac1", r"2\frac 1", True),  # one sign is no fraction, and stays
        ("2\n", "2", True),
        ("", "", True),
        (r"\frac{.5}{2}", r"\frac{0.5}{2}", True),
    ],
)
def test_equivalence(a, b, same):
    assert math_answers.equivalent(a, b) is same
    assert math_answers.equivalent(b, a) is same


def test_prompts_and_records(inputs):
    first, second = math_problems.TASK.items(inputs)
    assert (first.prompt, first.gold, first.groups) == (
        "Problem: Half of 3?\nAnswer:",
        r"\frac{3}{2}",
        ("Algebra",),
    )
    assert (second.gold, second.groups) == ("5", ("prealgebra",))
    assert math_problems.TASK.method.stop == math_problems.MINERVA.method.stop == ("Problem:",)
    made = [
        math_problems.TASK.method.record(first, " It is $3/2$, or so."),
        math_problems.TASK.method.record(first, r" We get \boxed{\dfrac32}"),
        math_problems.TASK.method.record(second, r" We get \boxed{4}"),
        math_problems.TASK.method.record(second, " 5"),
    ]
    assert [r["exact"] for r in made] == [1.0, 0.0, 0.0, 1.0]
    assert [r["exact_boxed"] for r in made] == [0.0, 1.0, 0.0, 0.0]
    assert made[0]["answer"] == "3/2"
    found = math_problems.TASK.measure(
        [record | {"id": str(i), "ended": 1.0} for i, record in enumerate(made)]
    )
    assert {name: each.estimate.mean for name, each in found.items()} == {
        "exact_match_boxed": 0.25,
        "exact_match": 0.5,
        "format_compliance": 0.5,
        "accuracy_given_valid_format": 0.5,
        "accuracy_missing_wrong": 0.25,
        "accuracy_missing_right": 0.75,
        "emitted_eos": 1.0,
    }


def test_minerva_shows_four_solved_problems(inputs):
    problem = math_problems.MINERVA.items(inputs)[0]
    assert problem.prompt.count("Problem:\n") == 5
    assert problem.prompt.endswith("I hope it is correct.\n\nProblem:\nHalf of 3?\n\nSolution:")
    # the list that lm-evaluation-harness 0.4.13 gives minerva_math
    assert records.digest([list(shot) for shot in math_problems.SHOTS]) == "fd92c7e5c11c8ff7"
    record = math_problems.MINERVA.method.record(
        problem, " Final Answer: The final answer is $1.5$. I hope it is correct."
    )
    assert (record["answer"], record["exact"]) == ("1.5", 0.0)
    right = r" Final Answer: The final answer is $\frac32$. I hope it is correct."
    assert math_problems.MINERVA.method.record(problem, right)["exact"] == 1.0


def test_missing_libraries_are_named_before_anything_is_computed(tmp_path, monkeypatch):
    """By the command that evaluates and by the one that trains; comparing strings needs none of
    them."""
    monkeypatch.setitem(sys.modules, "math_verify", None)
    monkeypatch.setattr(base_model, "load", None)  # nothing is loaded, either
    smoke, tasks = "--config=configs/math_ift.py:smoke", "('math_minerva_lm_eval:2',)"
    words = r"comparing formulas needs math-verify: pip install 'lfl_jax\[math\]'"
    with pytest.raises(UserError, match=words):
        evaluate.main(["x", smoke, f"--config.eval.tasks={tasks}", f"--out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match=words):
        main.main(
            ["x", smoke, f"--config.eval.every_tasks={tasks}", f"--workdir={tmp_path / 'run'}"]
        )
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=words):
        check_tasks(["math_minerva_lm_eval"])
    check_tasks(["math", "math_minerva"])


def test_another_antlr4_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.13.2")
    with pytest.raises(UserError, match="needs antlr4-python3-runtime 4.11, not 4.13.2"):
        check_tasks(["math_minerva_lm_eval"])


def test_a_solution_without_an_answer_is_refused():
    inputs = Inputs(docs=lambda name: [{"problem": "p", "solution": "none"}])
    with pytest.raises(
        UserError, match=r"MATH problem 0 has no \\boxed answer in its solution: 'none'"
    ):
        math_problems.TASK.items(inputs)


def test_documents_from_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, DOCS)), encoding="utf-8")
    inputs = dataclasses.replace(Inputs(), docs=readers.with_files({"math-test": str(file)}))
    assert [p.gold for p in math_problems.TASK.items(inputs)] == [r"\frac{3}{2}", "5"]


def test_real_problems_have_answers():
    if not assets.is_cached("math-test"):
        pytest.skip("math-test is not fetched: python -m lfl_jax.fetch math-test")
    problems = math_problems.TASK.items(Inputs())
    assert len(problems) == 5000
    assert len({p.groups for p in problems}) == 7
    assert all(
        math_problems.TASK.method.record(p, f"${p.gold}$")["exact"] == 1.0
        for p in problems[::25]
        if "$" not in p.gold
    )
