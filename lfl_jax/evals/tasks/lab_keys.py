"""Bits stored: how well does a model know the 16 random digits of the keys it was trained on?

Items are the training keys themselves, made by the source `lab_keys` (synthetic). A digit is scored
after the key and the right digits before it, in the training's format:

    e017 e203 v03 v15 v00 ...          <- v00 is scored after "e017 e203 v03 v15"

Metrics: bits (main) is the sum over a key's digits of max(0, 4 + log2 p(digit)): 64 for a value
that is known, 0 for one of which nothing is. As digits that are guessed below chance count 0, it is
biased upwards: its value before training is what nothing stored looks like. net_bits is the same
sum with these digits counted as less than 0, the bits that a code by this model would save.
digits is the fraction of digits that are the most probable token, whole that of values all of whose
digits are. Over 2,000 keys the first 2,000 are asked. `lfl_jax.studies.capacity` has the bits of
all keys for each trainable parameter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lfl_jax.data.formatting import prompt_ids
from lfl_jax.data.lab.keys import DIGIT_BITS, DIGITS
from lfl_jax.errors import UserError
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.evals.requests import Request, truncate
from lfl_jax.evals.task import Inputs, Likelihood, Record, Task
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Key:
    """A key in the training's format, and its value."""

    id: str
    cluster: str
    prompt: str
    value: str


def keys(inputs: Inputs) -> list[Key]:
    """The keys of the training source."""
    items: list[Key] = []
    for example in inputs.target:
        prompt, value = inputs.template.prompt_and_response(example.conversation)
        items.append(Key(example.id, example.cluster, prompt, value))
    return items


def requests(key: Key, tokenizer: Tokenizer, length: int) -> list[Request]:
    """Every digit after those before it; UserError for anything else than 16 tokens."""
    # The answer's tokens are those of training: encoded apart from the prompt.
    prompt = tuple(prompt_ids(key.prompt, tokenizer))
    digits = tuple(tokenizer.encode_continuation(key.value))
    if len(digits) != DIGITS:
        raise UserError(
            f"evaluation lab_keys needs config.data.source=lab_keys and the lab's own tokenizer:"
            f" {key.value[:40]!r} is {len(digits)} tokens, not {DIGITS} digits"
        )
    return [
        truncate(Request(prompt + digits[:i], digits[i : i + 1]), length) for i in range(DIGITS)
    ]


def record(key: Key, scored: Sequence[Scored]) -> Record:
    """The bits that are known of each digit, summed, and which digits are the most probable."""
    # A uniform guess has a log-probability of -4 bits, and so nothing known.
    known = [DIGIT_BITS + digit.ll / math.log(2) for digit in scored]
    right = sum(digit.greedy for digit in scored)
    return {
        "id": key.id,
        "cluster": key.cluster,
        "bits": sum(max(0.0, bits) for bits in known),
        "net_bits": sum(known),
        "digits": right / DIGITS,
        "whole": float(right == DIGITS),
    }


BITS = Metric("bits", "bits", "bits a key", **QUANTITY)

TASK = Task(
    name="lab_keys",
    version=1,
    label="keys",
    items=keys,
    method=Likelihood(requests, record),
    metrics=(
        BITS,
        replace(BITS, name="net_bits", field="net_bits", label="net bits a key", in_table=False),
        Metric("digits", "digits", "digits recalled", chance=2**-DIGIT_BITS),
        Metric("whole", "whole", "recalled whole", chance=0.0),
    ),
    reads_source=True,
)
