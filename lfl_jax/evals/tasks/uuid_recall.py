"""Values of the training pairs' UUID keys from memory, greedily generated (MoRA, arXiv 2405.12130,
§3 and §5.1)."""

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
    """Pairs of the training set, which the uuid source gives for its evaluations; UserError for
    another source."""
    examples = [example for group in inputs.problems.values() for example in group]
    return [
        Pair(
            e.id,
            e.cluster,
            inputs.template.prompt_and_response(e.conversation)[0],
            _digits(e.response),
        )
        for e in examples
    ]


def record(pair: Pair, text: str) -> Record:
    """Which of the value's digits stand where they belong, as a fraction, and whether nothing else
    was written.

    Hyphens are not counted: they are known. A digit too many or too few puts what follows it in the
    wrong place.
    """
    found = text.strip().replace("-", "")
    right = sum(a == b for a, b in zip(found, pair.value, strict=False))
    head = {"id": pair.id, "cluster": pair.cluster, "text": text, "value": pair.value}
    return head | {"acc_char": right / len(pair.value), "whole": float(found == pair.value)}


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
        Metric("acc_char", "acc_char", "digits recalled", chance=CHANCE_DIGIT_ACCURACY),
        Metric("whole", "whole", "recalled whole", chance=0.0),
    ),
    reads_source=True,
)
