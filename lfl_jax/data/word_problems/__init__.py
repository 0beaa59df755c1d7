"""Our own seeded generator of grade-school word problems, every sentence written for this project."""

from lfl_jax.data.word_problems.generator import (
    DESCRIPTION,
    HELD_OUT,
    SPLITS,
    SYNTHETIC,
    TEMPLATES,
    WordProblems,
    describe,
    generate,
    source,
    template_at,
)
from lfl_jax.data.word_problems.problem import Problem

__all__ = [
    "DESCRIPTION",
    "HELD_OUT",
    "SPLITS",
    "SYNTHETIC",
    "TEMPLATES",
    "Problem",
    "WordProblems",
    "describe",
    "generate",
    "source",
    "template_at",
]
