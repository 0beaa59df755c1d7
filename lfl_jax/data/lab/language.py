"""Running text of the lab: Markov chains of order 1 over 128 words.

Each word is followed by one of four words, with PROBABILITIES; the first word is uniform. The
entropy of a word given the one before it is therefore known: ENTROPY, 1.28 nats. The target
language for continued pretraining replaces one successor of every word, at a rank drawn for each,
and so shares 75 % of the transitions with the source language.
"""

import functools
import math
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


@dataclass(frozen=True)
class Language:
    """The source or the target language of a world."""

    world: int
    name: str

    @property
    def successors(self) -> Int[np.ndarray, "words 4"]:
        """The words that may follow each word, most probable first."""
        return _source(self.world) if self.name == "source" else _target(self.world)

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


@functools.lru_cache(maxsize=8)
def _source(seed: int) -> Int[np.ndarray, "words 4"]:
    draws = world.stream(seed, "source language")
    rows = [draws.permutation(WORDS)[: len(PROBABILITIES)] for _ in range(WORDS)]
    return np.stack(rows)


@functools.lru_cache(maxsize=8)
def _target(seed: int) -> Int[np.ndarray, "words 4"]:
    draws, source = world.stream(seed, "target language"), _source(seed)
    successors = source.copy()
    for row in successors:
        others = np.setdiff1d(np.arange(WORDS), row)
        row[draws.randint(len(row))] = draws.choice(others)
    return successors
