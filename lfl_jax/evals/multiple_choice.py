"""Questions with choices, decided by the log-probability of each choice, as lm-evaluation-harness scores them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lfl_jax.evals.base import Inputs, Likelihood, Task
from lfl_jax.evals.metrics import Metric, Record
from lfl_jax.evals.plan import Scored
from lfl_jax.evals.requests import Request, encode_pairs
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Question:
    """Per choice a (context, continuation) text pair and the text whose characters normalise it; `gold` an index."""

    id: str
    cluster: str
    pairs: tuple[tuple[str, str], ...]
    choices: tuple[str, ...]
    gold: int


def task(
    name: str, version: int, label: str, questions: Callable[[Inputs], list[Question]], accuracies: Sequence[str]
) -> Task:
    """A multiple-choice task; `accuracies` are those the harness reports for it, of acc and acc_norm, the one to
    believe first."""
    return Task(name, version, label, questions, Likelihood(requests, record), metrics(accuracies))


def metrics(accuracies: Sequence[str]) -> tuple[Metric, ...]:
    """These accuracies, and the log-probabilities of the right choice."""
    found = [Metric(name, name, name, "forgetting", chance=guess) for name in accuracies]
    return (
        *(replace(metric, in_table=metric is found[0]) for metric in found),
        Metric("gold_logprob", "gold_logprob", "log p(right)", "forgetting", percent=False),
        Metric("gold_logprob_norm", "gold_logprob_norm", "log p(right)", "forgetting", percent=False, in_table=False),
    )


def guess(record: Record) -> float:
    """The accuracy of guessing among the choices."""
    return 1 / len(record["ll"])


def requests(question: Question, tokenizer: Tokenizer, length: int) -> list[Request]:
    """One request per choice."""
    return encode_pairs(question.pairs, tokenizer, length)


def record(question: Question, scored: list[Scored]) -> Record:
    """acc: the largest ll is the gold choice's; acc_norm: the largest ll per character; the first of equals wins.

    `gold_logprob` is the log of the gold choice's probability among the choices (log-softmax of ll),
    `gold_logprob_norm` the same of ll per character. A choice without characters counts as one, where the harness
    divides by zero.
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
        "truncated": any(s.truncated for s in scored),
    }


def log_softmax(values: np.ndarray, index: int) -> float:
    """The log of one value's share of the exponentials of all."""
    top = values.max()
    return float(values[index] - top - np.log(np.sum(np.exp(values - top))))
