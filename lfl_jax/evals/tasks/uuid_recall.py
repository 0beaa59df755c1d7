"""UUID recall: the value of a training pair's key, generated from memory.

The memorisation task of MoRA (Jiang et al. 2024, arXiv 2405.12130, sections 3 and 5.1). Nothing can
be reasoned out, so it measures how much an adapter can store. Items are the training pairs
themselves, made by the source `uuid` (synthetic); the first, in the plain prompt format:

    Question: 58fa7e8757e442b4bd8bef7f3750236b
    Answer: ef8af4d0ec274032894001efe6141ed3

Metrics: acc_char (main) is the fraction of the value's 32 hexadecimal digits that are right at
their index. `whole` is the fraction of texts that are the value and nothing else.
"""

from dataclasses import dataclass
from uuid import UUID

from lfl_jax.data.uuid_pairs import CHANCE_DIGIT_ACCURACY
from lfl_jax.errors import UserError
from lfl_jax.evals.metrics import Metric
from lfl_jax.evals.task import Generate, Inputs, Record, Task


@dataclass(frozen=True)
class Pair:
    """A key in the training format, and its value in hexadecimal digits without hyphens."""

    id: str
    cluster: str
    prompt: str
    value: str


def pairs(inputs: Inputs) -> list[Pair]:
    """Pairs of the training set; UserError for another source than uuid."""
    # One group, whose examples are of the training set.
    examples = [example for group in inputs.problems.values() for example in group]
    prompts = [inputs.template.prompt_and_response(e.conversation)[0] for e in examples]
    return [
        Pair(e.id, e.cluster, prompt, _digits(e.response))
        for e, prompt in zip(examples, prompts, strict=True)
    ]


def record(pair: Pair, text: str) -> Record:
    """The fraction of right digits, and whether the text is the whole value.

    Hyphens do not count: they are known. One digit too many or too few shifts those that follow it.
    """
    digits = text.strip().replace("-", "")
    # strict=False: a text that is too short has fewer right digits, a longer one is cut.
    right = sum(a == b for a, b in zip(digits, pair.value, strict=False))
    return {
        "id": pair.id,
        "cluster": pair.cluster,
        "text": text,
        "value": pair.value,
        "acc_char": right / len(pair.value),
        "whole": float(digits == pair.value),
    }


def _digits(value: str) -> str:
    try:
        return UUID(value).hex
    except ValueError:
        raise UserError(
            f"evaluation uuid_recall needs config.data.source=uuid; {value[:40]!r} is no UUID"
        ) from None


TASK = Task(
    name="uuid_recall",
    version=2,
    label="UUIDs",
    items=pairs,
    method=Generate(("\n",), record),
    metrics=(
        # Chance is above 1/16: in every UUID of version 4 one digit is known, another nearly.
        Metric("acc_char", "acc_char", "digits recalled", chance=CHANCE_DIGIT_ACCURACY),
        Metric("whole", "whole", "recalled whole", chance=0.0),
    ),
    reads_source=True,
)
