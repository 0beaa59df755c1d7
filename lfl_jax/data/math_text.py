"""Running text about sums: the word problems of level 3 with their worked answers, as documents
without a prompt.

Training documents come from the training templates. "dev" and "test" each have half of the
templates that training never sees, so the three share no cluster.
"""

import re
from dataclasses import dataclass

from lfl_jax.data.examples import Drawn, Example
from lfl_jax.data.splits import check
from lfl_jax.data.word_problems import HELD_OUT, TOP, generate, template_at

LEVEL = 3
UNSEEN = HELD_OUT[LEVEL]
HALF = len(UNSEEN) // 2
TEMPLATES_OF = {"dev": UNSEEN[:HALF], "test": UNSEEN[HALF:]}
ANSWER = re.compile(r"\n#### (.+)\s*$")


def describe(seed: int) -> str:
    """The provenance line of a source drawn with this seed."""
    return (
        f"synthetic: generated word problems with worked answers as running text, seed {seed},"
        " a stand-in for OpenWebMath"
    )


@dataclass(frozen=True)
class MathText(Drawn):
    """Documents, each one problem and its solution."""

    def draw(self, i: int) -> Example:
        """Document i."""
        drawn, place = ("train", i) if self.split == "train" else ("test_unseen", self._place(i))
        problem = generate(self.seed, place, drawn, TOP)
        return Example("", as_text(problem), id=f"{self.split}/{i}", cluster=problem.cluster)

    def _place(self, i: int) -> int:
        """Index in "test_unseen" of this split's document i: each of its blocks holds every
        template once."""
        block, rank = divmod(i, HALF)
        here = range(block * len(UNSEEN), (block + 1) * len(UNSEEN))
        own = [
            j
            for j in here
            if template_at(self.seed, j, "test_unseen", LEVEL) in TEMPLATES_OF[self.split]
        ]
        return own[rank]


def as_text(problem: Example) -> str:
    """Question, solution and answer as paragraphs, without the mark before the answer."""
    worked = ANSWER.sub(r" The answer is \1.", problem.response)
    return f"{problem.prompt}\n\n{worked}"


def source(seed: int, split: str, size: int) -> MathText:
    """A random-access source of `size` documents; UserError for an unknown split."""
    check(split, "math_text")
    return MathText(seed, split, size)
