"""What a template returns, and how it chooses among its wordings."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One drawn problem.

    The last line of `solution` is `#### answer`, without a thousands separator.
    """

    question: str
    solution: str
    answer: int


def compose(
    rng: random.Random, questions: Sequence[str], solutions: Sequence[Sequence[str]], answer: int
) -> Problem:
    """Draw one wording of the question and, independently, one of the solution (its lines)."""
    question = rng.choice(questions)
    lines = rng.choice(solutions)
    return Problem(question, "\n".join([*lines, f"#### {answer}"]), answer)
