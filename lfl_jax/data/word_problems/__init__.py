"""Our own seeded generator of grade-school word problems, every sentence written for this
project."""

from lfl_jax.data.word_problems.generator import (
    HELD_OUT,
    SPLITS,
    SYNTHETIC,
    TEMPLATES,
    TOP,
    Levels,
    WordProblems,
    describe,
    generate,
    source,
    template_at,
)
from lfl_jax.data.word_problems.problem import Problem

__all__ = [
    "HELD_OUT",
    "SPLITS",
    "SYNTHETIC",
    "TEMPLATES",
    "TOP",
    "Levels",
    "Problem",
    "WordProblems",
    "describe",
    "generate",
    "source",
    "template_at",
]
