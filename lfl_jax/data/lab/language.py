"""Running text of the lab: Markov chains of order 1 over 128 words.

Each word is followed by one of four words, with PROBABILITIES; the first word is uniform. The
entropy of a word given the one before it is therefore known: ENTROPY, 1.28 nats. The target
language for continued pretraining replaces one successor of every word, at a rank drawn for each,
and so shares 75 % of the transitions with the source language.

Targets nearer and farther replace fewer or more of them, in one order: what a target replaces, a
farther one replaces, too, so that the distance is all that differs. All have the same entropy.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lfl_jax.data.lab import vocabulary, world
from lfl_jax.data.lab.vocabulary import WORDS

PROBABILITIES = (0.4, 0.3, 0.2, 0.1)
ENTROPY = -sum(p * math.log(p) for p in PROBABILITIES)  # nats per word after the first
DOCUMENT_WORDS = 30  # with BOS and EOS two documents fill a row of 64 tokens
LANGUAGES = ("source", "target")
TEXTS = tuple(map(vocabulary.word, range(WORDS)))
# Numbers that keep the documents of splits apart, whatever the seed of the order.
SPLIT_NUMBERS = {"train": 0, "dev": 1, "test": 2}


# Of the transitions, which the target language of every earlier run has in common with the source.
SHARED = 0.75


@dataclass(frozen=True)
class Language:
    """The source or the target language of a world.

    shared: the share of the source's transitions that the target language keeps, from 0 to 1.
    """

    world: int
    name: str
    shared: float = SHARED

    @property
    def successors(self) -> Int[np.ndarray, "words 4"]:
        """The words that may follow each word, most probable first."""
        if self.name == "source":
            return _source(self.world)
        return _target(self.world, self.shared)

    def document(self, split: str, seed: int, i: int) -> str:
        """Document i of a split: DOCUMENT_WORDS words. Only "train" depends on the seed."""
        # Held-out text is the same in every run, so that runs can be paired by item.
        numbers = (LANGUAGES.index(self.name), SPLIT_NUMBERS[split], seed * (split == "train"), i)
        draws = world.stream(self.world, "documents", *numbers)
        successors = self.successors.tolist()

        words = [int(draws.randint(WORDS))]
        ranks = draws.choice(len(PROBABILITIES), size=DOCUMENT_WORDS - 1, p=PROBABILITIES)
        for rank in ranks:
            words.append(successors[words[-1]][rank])
        return " ".join(map(TEXTS.__getitem__, words))


@dataclass(frozen=True)
class Replaced:
    """A word, what may follow it in the source language alone, and in the target language alone."""

    word: int
    old: int
    new: int


def replaced(seed: int) -> list[Replaced]:
    """The transition of every word in which a world's two languages differ.

    The target language is the one of data.shared = SHARED: every word has one new follower.
    """
    successors = [Language(seed, name).successors.tolist() for name in LANGUAGES]
    pairs = zip(*successors, strict=True)
    differing = []
    for word, (old, new) in enumerate(pairs):
        (rank,) = (rank for rank in range(len(old)) if old[rank] != new[rank])
        differing.append(Replaced(word, old[rank], new[rank]))
    return differing


@functools.lru_cache(maxsize=8)
def _source(seed: int) -> Int[np.ndarray, "words 4"]:
    draws = world.stream(seed, "source language")
    rows = [draws.permutation(WORDS)[: len(PROBABILITIES)] for _ in range(WORDS)]
    return np.stack(rows)


@functools.lru_cache(maxsize=8)
def _target(seed: int, shared: float = SHARED) -> Int[np.ndarray, "words 4"]:
    """The source's successors with the first of `_replacements` in place of some."""
    replaced = round((1 - shared) * WORDS * len(PROBABILITIES))
    successors = _source(seed).copy()
    for word, rank, other in _replacements(seed)[:replaced]:
        successors[word, rank] = other
    return successors


@functools.lru_cache(maxsize=8)
def _replacements(seed: int) -> Int[np.ndarray, "transitions 3"]:
    """(word, rank of a successor, the word in its place) of every transition, in a fixed order.

    One of every word comes first, then a second one of every word, and so on, so that no word's
    successors change much more than another's. None gets back a successor that it had.
    """
    draws, source = world.stream(seed, "target language"), _source(seed).tolist()
    # These draws made the only target that there once was: further ones must not move them.
    first = [(int(draws.choice(_words_but(row))), int(draws.randint(len(row)))) for row in source]
    orders = [draws.permutation(WORDS)]
    by_word = [
        _of_word(draws, row, *one_first) for row, one_first in zip(source, first, strict=True)
    ]
    orders += [draws.permutation(WORDS) for _ in PROBABILITIES[1:]]
    return np.array(
        [(word, *by_word[word][n]) for n, order in enumerate(orders) for word in order.tolist()]
    )


def _of_word(
    draws: np.random.RandomState, row: list[int], other: int, rank: int
) -> list[tuple[int, int]]:
    """(rank, the word in its place) of all successors of a word, the given one first."""
    ranks = draws.permutation([one for one in range(len(row)) if one != rank])
    others = draws.permutation(_words_but([*row, other]))
    return [(rank, other), *zip(ranks.tolist(), others.tolist(), strict=False)]


def _words_but(used: Iterable[int]) -> Int[np.ndarray, " words"]:
    return np.setdiff1d(np.arange(WORDS), list(used))
