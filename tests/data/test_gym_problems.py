"""reasoning_gym as a source: splits without a common question, the library's scorers, and hostile
answers."""

import pytest
from lfl_jax.configs import base

from lfl_jax.config import DataConfig
from lfl_jax.data import gym_problems, sources
from lfl_jax.errors import UserError
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import reasoning_gym
from lfl_jax.text.chat import TEMPLATES

pytest.importorskip("reasoning_gym", reason="needs the extra gym")

HOSTILE = (
    "__import__('os').system('echo run')",
    "[x for x in ().__class__.__base__.__subclasses__()]",
    "9**9**9**9",
    "9^9^9^9",
    "99999!!",
    "x.__class__",
    "(lambda: 1)()",
)


def open_source(split, task="chain_sum", size=200):
    values = base.base().data.to_dict() | {"source": f"reasoning_gym:{task}", "size": size}
    return sources.open_source(DataConfig(**values), split, 3)


def test_splits_share_no_question_and_are_drawn_again_the_same():
    splits = {split: open_source(split) for split in ("train", "dev", "test")}
    prompts = {split: {e.prompt for e in source.examples} for split, source in splits.items()}
    assert len(prompts["train"]) > 150 and prompts["dev"] and prompts["test"]
    assert (
        not prompts["train"] & (prompts["dev"] | prompts["test"])
        and not prompts["dev"] & prompts["test"]
    )
    again = open_source("test")
    assert again.examples == splits["test"].examples and again.sha256 == splits["test"].sha256
    assert (
        again.synthetic
        and again.licence == "Apache-2.0"
        and "task chain_sum, seed 3" in again.description
    )


def test_the_task_is_graded_by_the_librarys_scorer():
    inputs = Inputs(problems={"test": open_source("test").examples}, template=TEMPLATES["plain"])
    problem = reasoning_gym.problems(inputs)[0]
    assert problem.prompt.startswith("Question: ") and problem.prompt.endswith("Answer:")
    right, wrong = (
        reasoning_gym.record(problem, f" {problem.gold}"),
        reasoning_gym.record(problem, " 1000001"),
    )
    assert (right["solved"], wrong["solved"]) == (1.0, 0.0)
    measured = reasoning_gym.TASK.measure([right | {"ended": 1.0}, wrong | {"ended": 0.0}])
    assert measured["exact_match"].estimate.mean == 0.5
    assert reasoning_gym.details(inputs) == {"reasoning_gym": gym_problems.version()}


@pytest.mark.parametrize(
    "task", ["countdown", "simple_integration", "binary_matrix", "polynomial_multiplication"]
)
def test_gold_answers_of_evaluating_scorers_pass_and_hostile_ones_never_reach_them(task):
    examples = gym_problems.source(task, "train", 12, 0)
    assert all(gym_problems.score(e.id, e.response) == 1.0 for e in examples)
    for answer in HOSTILE:
        # which Python does not read, and so does not evaluate
        no_python = task == "binary_matrix" and "!" in answer
        assert gym_problems.HARMLESS[task](answer) == no_python
        assert gym_problems.score(examples[0].id, answer) == 0.0


def test_every_scorer_that_evaluates_text_is_guarded():
    assert gym_problems.evaluates() == set(gym_problems.HARMLESS)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("chainsum", "there is no such task; near are: chain_sum"),
        ("composite", "it has no default settings"),
        ("", "needs a task: reasoning_gym:chain_sum"),
    ],
)
def test_a_task_that_cannot_be_had_is_said(task, message):
    with pytest.raises(UserError, match=message):
        open_source("train", task=task)
