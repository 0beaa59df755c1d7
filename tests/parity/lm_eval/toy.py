"""A toy tokenizer, scorer and generator, simple enough to be the same on both sides of a
comparison.

No numpy, no package: the script that runs lm-evaluation-harness and our tests both load this file.
"""

import re
import zlib
from collections.abc import Sequence

VOCAB = 50_000
BOS, EOS = 1, 2
MODULUS = 65_521

# A colon takes the space after it, so a token can span the border of context and continuation; runs
# of white space are one token.
_PIECE = re.compile(r"<bos>|:\s| ?\w+| ?[^\w\s:]+|:|\s+")


def encode(text: str) -> list[int]:
    """Ids of the pieces of a text, from 3 on; "<bos>" is the special token."""
    pieces = _PIECE.findall(text)
    return [
        BOS if piece == "<bos>" else 3 + zlib.crc32(piece.encode()) % (VOCAB - 3)
        for piece in pieces
    ]


def feature(token: int, position: int) -> int:
    """What one token at one position adds to the state of the positions that attend to it."""
    return (token * 1_000_003 + position * 7_919 + token * position * 31 + 17) % MODULUS


def nll(state: int, target: int) -> float:
    """Of the next token in [0, 8), a multiple of 1/8192, so that sums of it are exact in any
    order."""
    return ((state * 48_271 + target * 69_621 + 11) % MODULUS) / 8192


def greedy(value: float) -> bool:
    """Whether a token of this nll counts as the model's first choice; likely enough to happen for
    short texts."""
    return value < 4.0


def score(context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
    """Log-probability of a continuation, and whether all of it is greedy; the state is the sum over
    what was read."""
    ids = [*context, *continuation]
    state, values = 0, []
    for i, target in enumerate(ids[1:]):
        state = (state + feature(ids[i], i)) % MODULUS
        if i + 1 >= len(context):
            values.append(nll(state, target))
    return -sum(values), all(greedy(value) for value in values)


def generate(prompt: str) -> str:
    """An answer to the last question of a prompt, right or wrong in one of many ways, chosen by its
    hash."""
    question = prompt.rpartition("Question:")[2]
    number = (re.findall(r"\d+", question) or ["7"])[-1]
    forms = (
        f" Two and two.\n#### {number}",
        f" That makes {number}.00 of them.\n#### {number}.",
        f" So the answer is ${number},\n\nQuestion: and then? #### 99",
        f" We get -{number}\n####{number}\n#### {number},000",
        " There is no number in it",
        f"#### {number} #### 12</s> 13",
        f" It is {number}, or {number}.",
        f"\n####  {number}\n{number} ...",
    )
    return forms[zlib.crc32(question.encode()) % len(forms)]
