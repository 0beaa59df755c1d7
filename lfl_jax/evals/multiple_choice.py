"""Questions with choices, decided by the log-probability of each choice, as lm-evaluation-harness
scores them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lfl_jax.evals.batching import Scored
from lfl_jax.evals.metrics import QUANTITY, Metric, Record
from lfl_jax.evals.requests import Request, encode_pairs
from lfl_jax.evals.task import Inputs, Likelihood, Task
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Question:
    """Per choice a (context, continuation) text pair and the text whose characters normalise it;
    `gold` an index."""

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
    """A multiple-choice task; `accuracies` are those the harness reports for it, of acc and
    acc_norm, the one to believe first."""
    return Task(name, version, label, questions, Likelihood(requests, record), metrics(accuracies))


def metrics(accuracies: Sequence[str], unit: str = "char") -> tuple[Metric, ...]:
    """These accuracies, the first of them in tables, and what moves before a prediction flips: bits
    per byte of the right choice, and its log-probability among the choices, normalised by length
    (`unit`) and not."""
    found = [Metric(name, name, name, "forgetting", chance=guess) for name in accuracies]
    continuous = partial(Metric, section="forgetting", **QUANTITY)
    return (
        *(replace(metric, in_table=metric is found[0]) for metric in found),
        continuous(
            "bits_per_byte", right_bits_per_byte, "bits/byte of right", higher_is_better=False
        ),
        continuous("gold_logprob_norm", "gold_logprob_norm", f"log p(right)/{unit}"),
        continuous("gold_logprob", "gold_logprob", "log p(right)", in_table=False),
    )


def right_bits_per_byte(record: Record) -> float:
    """-ll / (ln 2 x UTF-8 bytes) of the right choice's continuation; comparable between tokenizers
    and lengths."""
    gold = record["gold"]
    return -record["ll"][gold] / (math.log(2) * record["bytes"][gold])


def continuation_bytes(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """The UTF-8 bytes of each choice's continuation, at least 1, with the space that it begins
    with."""
    return [max(len(continuation.encode()), 1) for _, continuation in pairs]


def guess(record: Record) -> float:
    """The accuracy of guessing among the choices."""
    return 1 / len(record["ll"])


def requests(question: Question, tokenizer: Tokenizer, length: int) -> list[Request]:
    """One request per choice."""
    return encode_pairs(question.pairs, tokenizer, length)


def record(question: Question, scored: list[Scored]) -> Record:
    """acc: the largest ll is the gold choice's; acc_norm: the largest ll per character; the first
    of equals wins.

    `gold_logprob` is the log of the gold choice's probability among the choices (log-softmax of
    ll), `gold_logprob_norm` the same of ll per character. A choice without characters counts as
    one, where the harness divides by zero.
    """
    ll = np.array([s.ll for s in scored], np.float64)
    characters = [len(choice) for choice in question.choices]
    normalised = ll / np.maximum(characters, 1)
    return {
        "id": question.id,
        "cluster": question.cluster,
        "gold": question.gold,
        "prediction": int(np.argmax(ll)),
        "prediction_norm": int(np.argmax(normalised)),
        "acc": float(np.argmax(ll) == question.gold),
        "acc_norm": float(np.argmax(normalised) == question.gold),
        "gold_logprob": log_softmax(ll, question.gold),
        "gold_logprob_norm": log_softmax(normalised, question.gold),
        "ll": ll.tolist(),
        "greedy": [s.greedy for s in scored],
        "tokens": [s.tokens for s in scored],
        "characters": characters,
        "bytes": continuation_bytes(question.pairs),
        "truncated": any(s.truncated for s in scored),
    }


def log_softmax(values: np.ndarray, index: int) -> float:
    """The log of one value's share of the exponentials of all."""
    top = values.max()
    return float(values[index] - top - np.log(np.sum(np.exp(values - top))))
