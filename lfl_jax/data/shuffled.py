"""Shuffled responses: every prompt is answered with another example's response.

A sham control: the run takes as many steps on the same texts, and there is nothing to learn that
the prompts and the responses do not say each by themselves.
"""

import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int

from lfl_jax.data.examples import Example, Source
from lfl_jax.errors import UserError

TRIES = 64  # random partners of an example that has drawn its own response, before all are searched


@dataclass(frozen=True)
class ShuffledResponses(Sequence[Example]):
    """Examples, each with the response of example order[i] in place of its own."""

    examples: Sequence[Example]
    order: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: SupportsIndex) -> Example:
        i = range(len(self))[operator.index(index)]
        example, other = self.examples[i], self.examples[int(self.order[i])]
        # A conversation ends in its answer.
        turns = (*example.turns[:-1], ("assistant", other.response)) if example.turns else ()
        return replace(example, response=other.response, turns=turns)


def source(original: Source, seed: int, loss_turns: str) -> Source:
    """The source with its responses permuted among its examples, as its name says.

    Raises UserError for documents, and for a conversation of several answers unless the last one
    alone is trained on (loss_turns of config.data).
    """
    for example in original.examples:
        _require_one_answer(example, loss_turns)
    order = permutation([example.response for example in original.examples], seed)
    return replace(
        original,
        name=f"{original.name} (responses shuffled)",
        examples=ShuffledResponses(original.examples, order),
        sha256=hashlib.sha256(f"{original.sha256} shuffled {seed}".encode()).hexdigest(),
        description=f"{original.description}; responses shuffled among the prompts, seed {seed}",
        shuffled=True,
    )


def _require_one_answer(example: Example, loss_turns: str) -> None:
    if example.is_document:
        raise UserError(
            f"config.data.shuffle_responses: example {example.id} is a document, which answers no"
            " prompt; the first of config.data.source must have prompts and be trained on"
        )
    answers = sum(role == "assistant" for role, _ in example.turns)
    if answers > 1 and loss_turns == "all":
        raise UserError(
            f"config.data.shuffle_responses: conversation {example.id} has {answers} answers, and"
            " the last one alone is shuffled; set config.data.loss_turns=last"
        )


def permutation(responses: Sequence[str], seed: int) -> Int[np.ndarray, " N"]:
    """A random order in which no example has a response equal to its own, as far as there is one.

    There is none where one response belongs to more than half of the examples.
    """
    labels = np.unique(responses, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    exhausted: set[int] = set()
    for i in np.flatnonzero(labels[order] == labels).tolist():
        # An earlier swap may have given it another response.
        if labels[order[i]] != labels[i] or int(labels[i]) in exhausted:
            continue
        partner = _partner(i, labels, order, rng)
        if partner is None:
            exhausted.add(int(labels[i]))
        else:
            order[[i, partner]] = order[[partner, i]]
    return order


def _partner(
    i: int, labels: Int[np.ndarray, " N"], order: Int[np.ndarray, " N"], rng: np.random.Generator
) -> int | None:
    """An example to swap with, after which both have another response; None without any.

    Where each response belongs to at most half of the examples there always is one: at most half
    have this response as their own, at most half were given it, and example i is in both halves.
    """
    for candidates in (rng.integers(len(labels), size=TRIES), np.arange(len(labels))):
        is_other = (labels[candidates] != labels[i]) & (labels[order[candidates]] != labels[i])
        if is_other.any():
            return int(rng.choice(candidates[is_other]))
    return None
