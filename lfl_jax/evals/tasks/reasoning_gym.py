"""Held-out problems of reasoning_gym, asked as in training and graded by the library's own
scorers."""

from typing import Any

from lfl_jax.data import gym_problems
from lfl_jax.errors import UserError
from lfl_jax.evals.grading import numbers
from lfl_jax.evals.metrics import Metric
from lfl_jax.evals.task import Generate, Inputs, Record, Task, common_fields
from lfl_jax.evals.tasks.gsm8k import Problem

METRICS = (
    Metric("exact_match", "solved", "solved", chance=0.0),
    Metric("score", "score", "score", percent=False),  # some scorers give part of a point
)


def problems(inputs: Inputs) -> list[Problem]:
    """The held-out problems, where the training source is reasoning_gym; UserError for another."""
    examples = [example for split in inputs.problems.values() for example in split]
    if any(example.id.count("/") != 3 for example in examples):
        raise UserError("evaluation reasoning_gym needs config.data.source=reasoning_gym:TASK")
    return [
        Problem(e.id, e.cluster, inputs.template.render(e.prompt, "")[0], e.response)
        for e in examples
    ]


def record(problem: Problem, text: str) -> Record:
    """The generated text and what the library's scorer gives for it; 1 is a right answer."""
    score = gym_problems.score(problem.id, text.strip())
    graded = {"text": text, "gold": problem.gold, "score": score, "solved": float(score == 1.0)}
    return common_fields(problem) | graded


def details(inputs: Inputs) -> dict[str, Any]:
    """The library's version, which decides."""
    return {"reasoning_gym": gym_problems.version()}


METHOD = Generate(numbers.STOP, record)
TASK = Task(
    "reasoning_gym",
    1,
    "held-out problems",
    problems,
    METHOD,
    METRICS,
    details,
    check=gym_problems.check_installed,
)
