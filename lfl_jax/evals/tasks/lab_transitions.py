"""Transitions of the lab's target language: does a model expect the new one, or the old one?

Each of the 128 words has one follower in the target language that it has not in the source
language, and one that it has there alone. Both are scored as the second word of a document:

    w017 w101          <- w101 is scored after "w017": it follows in the target language alone

Metrics: acc (main) is 1 where the new follower is more probable than the old one. It is near 0 for
the base and 1 for a model that knows the target language, as a recall is, which the loss of text is
not. gold_logprob is the new one's log-probability among the two, in nats. During training every
fourth word is asked, and at the end all others.
"""

from dataclasses import dataclass

import numpy as np

from lfl_jax.data.formatting import prompt_ids
from lfl_jax.data.lab import language, vocabulary
from lfl_jax.errors import UserError
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.evals.requests import Request, truncate
from lfl_jax.evals.task import Inputs, Likelihood, Record, Task
from lfl_jax.text.tokenizers import Tokenizer

# Of so many words one decides something during training.
DEV_EVERY = 4


@dataclass(frozen=True)
class Transition:
    """A word and its two followers; prompt: the word, which a document begins with."""

    id: str
    cluster: str
    prompt: str
    new: str
    old: str


def transitions(inputs: Inputs) -> list[Transition]:
    """Of the words that decide, or of all others."""
    items = []
    for one in language.replaced(inputs.world):
        if (one.word % DEV_EVERY == 0) == inputs.dev:
            word, new, old = map(vocabulary.word, (one.word, one.new, one.old))
            items.append(Transition(word, word, word, f" {new}", f" {old}"))
    return items


def requests(item: Transition, tokenizer: Tokenizer, length: int) -> list[Request]:
    """Both followers; UserError for a tokenizer in which a word is several tokens."""
    prompt = tuple(prompt_ids(item.prompt, tokenizer))
    # The record takes their scores in this order.
    followers = [tuple(tokenizer.encode_continuation(text)) for text in (item.new, item.old)]
    # In pieces, followers that share some would be told apart by the others alone.
    if {len(ids) for ids in followers} != {1}:
        raise UserError(
            f"{item.new.strip()!r} is {len(followers[0])} tokens of this tokenizer: the lab's"
            " evaluations need its own, config.model.tokenizer=lab-words"
        )
    return [truncate(Request(prompt, ids), length) for ids in followers]


def record(item: Transition, scored: list[Scored]) -> Record:
    """Whether the new follower is the more probable one, and its share of the two."""
    new, old = (follower.ll for follower in scored)
    return {
        "id": item.id,
        "cluster": item.cluster,
        "acc": float(new > old),
        "gold_logprob": new - float(np.logaddexp(new, old)),
    }


TASK = Task(
    name="lab_transitions",
    version=1,
    label="new transitions",
    items=transitions,
    method=Likelihood(requests, record),
    metrics=(
        # Of two, and yet none is guessed: the base knows the old one.
        Metric("acc", "acc", "recall", "learning", chance=0.0),
        Metric("gold_logprob", "gold_logprob", "log p(new of two)", "learning", **QUANTITY),
    ),
)
