"""reasoning_gym: held-out generated puzzles, graded by the library's own scorers.

Stojanovski et al. 2025, arXiv 2505.24760; library reasoning-gym, Apache-2.0 licence. Items are
held-out problems of the training source `reasoning_gym:TASK`, asked in the prompt format of
training. With TASK chain_sum and the plain format an item is:

    Question: State the final answer to the following arithmetic problem: 4 - 1 - 7 =
    Answer: -4

Metrics: score (0 to 1) is what the library's scorer of that TASK gives the text; some give part of
a point. exact_match (main) is the fraction of texts with the score 1.
"""

from typing import Any

from lfl_jax.data import gym_problems
from lfl_jax.errors import UserError
from lfl_jax.evals.grading import numbers
from lfl_jax.evals.metrics import Metric
from lfl_jax.evals.task import Generate, Inputs, Record, Task, common_fields
from lfl_jax.evals.tasks.gsm8k import Problem


def problems(inputs: Inputs) -> list[Problem]:
    """The held-out problems; UserError where the training source is not reasoning_gym."""
    examples = [example for split in inputs.problems.values() for example in split]
    # Ids of that source are "TASK/split/seed/index": by them the scorer finds the problem again.
    if any(example.id.count("/") != 3 for example in examples):
        raise UserError("evaluation reasoning_gym needs config.data.source=reasoning_gym:TASK")
    return [
        Problem(e.id, e.cluster, inputs.template.render(e.prompt, "")[0], e.response)
        for e in examples
    ]


def record(problem: Problem, text: str) -> Record:
    """The generated text and the scorer's verdict; a score of 1 is a right answer."""
    # The scorer draws the problem again by its id and looks at all of the text.
    score = gym_problems.score(problem.id, text.strip())
    graded = {"text": text, "gold": problem.gold, "score": score, "solved": float(score == 1.0)}
    return common_fields(problem) | graded


def details(inputs: Inputs) -> dict[str, Any]:
    """The version of the library, whose scorers decide."""
    return {"reasoning_gym": gym_problems.version()}


TASK = Task(
    name="reasoning_gym",
    version=1,
    label="held-out problems",
    items=problems,
    method=Generate(numbers.STOP, record),
    metrics=(
        Metric("exact_match", "solved", "solved", chance=0.0),
        # Not a proportion of right answers, so it is not printed as per cent.
        Metric("score", "score", "score", percent=False),
    ),
    details=details,
    check=gym_problems.check_installed,
)
