"""Multiple-choice questions, scored by the log-probability of each choice as in lm-eval-harness."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from lfl_jax.evals.batching import Scored
from lfl_jax.evals.metrics import QUANTITY, Metric, Record
from lfl_jax.evals.requests import Request, encode_pairs
from lfl_jax.evals.task import Inputs, Likelihood, Task
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Question:
    """A question with its choices.

    pairs: of each choice, the (context, continuation) texts. choices: the texts whose characters
    normalise the log-probabilities. gold: the index of the right choice.
    """

    id: str
    cluster: str
    pairs: tuple[tuple[str, str], ...]
    choices: tuple[str, ...]
    gold: int


def task(
    name: str,
    version: int,
    label: str,
    questions: Callable[[Inputs], list[Question]],
    accuracies: Sequence[str],
) -> Task:
    """A multiple-choice task.

    accuracies: those of acc and acc_norm that the harness reports for it, the main one first.
    """
    return Task(name, version, label, questions, Likelihood(requests, record), metrics(accuracies))


def metrics(accuracies: Sequence[str], unit: str = "char") -> tuple[Metric, ...]:
    """These accuracies, and continuous scores of the right choice.

    The scores move before a prediction flips: bits per byte, and the log-probability among the
    choices, normalised by length (in `unit`) and not. Only the first accuracy is in tables.
    """
    main = accuracies[0]  # the other is in results.json
    discrete = [
        Metric(name, name, name, "forgetting", chance=chance, in_table=name == main)
        for name in accuracies
    ]
    continuous = partial(Metric, section="forgetting", **QUANTITY)
    return (
        *discrete,
        continuous(
            "bits_per_byte", right_bits_per_byte, "bits/byte of right", higher_is_better=False
        ),
        # As acc_norm to acc: with the lengths of the choices taken out.
        continuous("gold_logprob_norm", "gold_logprob_norm", f"log p(right)/{unit}"),
        continuous("gold_logprob", "gold_logprob", "log p(right)", in_table=False),
    )


def right_bits_per_byte(record: Record) -> float:
    """-ll / (ln 2 x UTF-8 bytes) of the right choice's continuation.

    Comparable between tokenizers and lengths.
    """
    gold = record["gold"]
    # Nats per text to bits per byte; bytes, since tokens differ between tokenizers.
    return -record["ll"][gold] / (math.log(2) * record["bytes"][gold])


def continuation_bytes(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """The UTF-8 bytes of each continuation, its leading space included; at least 1."""
    return [max(len(continuation.encode()), 1) for _, continuation in pairs]


def chance(record: Record) -> float:
    """The accuracy of guessing among the choices."""
    return 1 / len(record["ll"])


def requests(question: Question, tokenizer: Tokenizer, length: int) -> list[Request]:
    """One request per choice."""
    return encode_pairs(question.pairs, tokenizer, length)


def record(question: Question, scored: list[Scored]) -> Record:
    """acc: the gold choice has the largest ll; acc_norm: the largest ll per character.

    gold_logprob is the log of the gold choice's probability among the choices (log-softmax of ll),
    gold_logprob_norm the same of ll per character.
    """
    ll = np.array([s.ll for s in scored], np.float64)
    characters = [len(choice) for choice in question.choices]
    # The harness divides by zero for a choice without characters; here it counts as one.
    normalised = ll / np.maximum(characters, 1)
    # argmax takes the first of equals, as the harness does.
    prediction, prediction_norm = int(np.argmax(ll)), int(np.argmax(normalised))
    return {
        "id": question.id,
        "cluster": question.cluster,
        "gold": question.gold,
        "prediction": prediction,
        "prediction_norm": prediction_norm,
        "acc": float(prediction == question.gold),
        "acc_norm": float(prediction_norm == question.gold),
        "gold_logprob": log_softmax(ll, question.gold),
        "gold_logprob_norm": log_softmax(normalised, question.gold),
        "ll": ll.tolist(),
        **_lengths(scored),
        "characters": characters,
        "bytes": continuation_bytes(question.pairs),
        "truncated": any(s.truncated for s in scored),
    }


def _lengths(scored: Sequence[Scored]) -> Record:
    """Of each continuation: whether greedy decoding yields it, and its tokens."""
    greedy = [s.greedy for s in scored]
    return {"greedy": greedy, "tokens": [s.tokens for s in scored]}


def log_softmax(values: Float[np.ndarray, " choices"], index: int) -> float:
    """The log of one value's share of the sum of exponentials."""
    top = values.max()  # subtracted first: exp of a log-probability per text underflows
    return float(values[index] - top - np.log(np.sum(np.exp(values - top))))
