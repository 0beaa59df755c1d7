"""Running text about sums: word problems of level 3 with their solutions, as documents.

Training documents come from the training templates. "dev" and "test" each have half of the
templates that training never sees, so that the three share no cluster.
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
        if self.split == "train":
            problem = generate(self.seed, i, "train", TOP)
        else:
            problem = generate(self.seed, self._unseen_index(i), "test_unseen", TOP)
        return Example("", as_text(problem), id=f"{self.split}/{i}", cluster=problem.cluster)

    def _unseen_index(self, i: int) -> int:
        """Index in "test_unseen" of this split's document i."""
        # Each block of len(UNSEEN) problems has every template once, in an order of its own: half
        # of them are this split's.
        block, rank = divmod(i, HALF)
        indices = range(block * len(UNSEEN), (block + 1) * len(UNSEEN))
        templates = TEMPLATES_OF[self.split]
        of_split = [
            j for j in indices if template_at(self.seed, j, "test_unseen", LEVEL) in templates
        ]
        return of_split[rank]


def as_text(problem: Example) -> str:
    """Question and solution as paragraphs; "#### 12" becomes a sentence of the solution."""
    solution = ANSWER.sub(r" The answer is \1.", problem.response)
    return f"{problem.prompt}\n\n{solution}"


def source(seed: int, split: str, size: int) -> MathText:
    """A random-access source of `size` documents; UserError for an unknown split."""
    check(split, "math_text")
    return MathText(seed, split, size)
