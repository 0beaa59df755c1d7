"""Evaluation items that a training source contains, by shared word n-grams.

n = 13, as for GPT-3 (arXiv 2005.14165). Texts are compared as lm-evaluation-harness's janitor does:
lower-case, without ASCII punctuation, split at white space.
"""

import functools
import itertools
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt64

N = 13  # words
# An item of fewer words than N is searched for as a whole, unless it has fewer than these.
SHORTEST = 8
STRIPPED = str.maketrans("", "", string.punctuation)
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, for hashes of sequences modulo 2^64
BITS = 24  # of a hash, in the table that rules out most n-grams
# Fields of an evaluation item that name it and are no part of its text.
NAME_FIELDS = ("id", "cluster", "group", "groups", "form")

Items = Mapping[str, Mapping[str, str]]  # {task: {item id: text}}
Hashes = UInt64[np.ndarray, " W"]


def words(text: str) -> list[str]:
    """The words that are compared."""
    return text.lower().translate(STRIPPED).split()


@dataclass(frozen=True)
class _Item:
    """An evaluation item, as the words that are searched for."""

    task: str
    id: str
    words: list[str]

    @functools.cached_property
    def _spaced(self) -> str:
        return f" {' '.join(self.words)} "

    def contains(self, gram: str) -> bool:
        """True when these words follow each other in the item."""
        return f" {gram} " in self._spaced


def overlaps(
    source_texts: Iterable[str],
    items: Items,
    n: int = N,
    progress: Callable[[int], None] = lambda texts: None,
) -> dict[str, dict[str, str]]:
    """{task: {id of an item that a source text overlaps: the n-gram}}, in one pass over the source.

    An item shorter than n words is searched for as a whole. progress is called with 1 after every
    source text.
    """
    evaluated: list[_Item] = []
    for task, texts in items.items():
        evaluated += [_Item(task, item_id, words(text)) for item_id, text in texts.items()]
    tables = _tables(evaluated, n)

    # By the item's index, the first n-gram that it shares with a source text.
    shared: dict[int, str] = {}
    for text in source_texts:
        text_words = words(text)
        hashes = _word_hashes(text_words)
        for owner, gram in itertools.chain(*(table.hits(text_words, hashes) for table in tables)):
            # Equal hashes are not yet equal words.
            if owner not in shared and evaluated[owner].contains(gram):
                shared[owner] = gram
        progress(1)

    return _by_task(shared, evaluated, items)


def _by_task(shared: dict[int, str], evaluated: list[_Item], items: Items) -> dict[str, dict]:
    result: dict[str, dict[str, str]] = {task: {} for task in items}
    for owner in sorted(shared):
        item = evaluated[owner]
        result[item.task][item.id] = shared[owner]
    return result


def report(
    overlapping: Mapping[str, Mapping[str, str]], items: Items, source: dict[str, Any], n: int = N
) -> dict[str, Any]:
    """The result of `overlaps` as JSON: per task the counts of items, and the overlapping ones.

    source: its provenance.
    """
    tasks = {}
    for task, texts in items.items():
        too_short = sum(not _gram_length(words(text), n) for text in texts.values())
        tasks[task] = {
            "items": len(texts),
            "too_short": too_short,
            "overlapping": len(overlapping[task]),
            "ngrams": dict(overlapping[task]),
        }
    return {
        "n": n,
        "normalised": "lower-case, no ASCII punctuation",
        "source": source,
        "tasks": tasks,
    }


def item_text(item: object) -> str:
    """All texts of an evaluation item, but not its names."""
    values = [value for name, value in vars(item).items() if name not in NAME_FIELDS]
    return "\n".join(itertools.chain.from_iterable(map(_strings, values)))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _strings(part)


def _gram_length(item: list[str], n: int) -> int:
    """Words of the n-grams that an item is found by; 0 for an item that is too short."""
    return min(n, len(item)) if len(item) >= min(SHORTEST, n) else 0


@dataclass(frozen=True)
class _Table:
    """Hashes of all n-grams of one length, sorted, and the items that they are of."""

    length: int
    keys: UInt64[np.ndarray, " K"]
    owners: Int[np.ndarray, " K"]
    possible: Bool[np.ndarray, " P"]  # by the first bits of a hash: does any key begin with them?

    @classmethod
    def of(cls, grams_of: dict[int, Hashes], length: int) -> "_Table":
        """The table of these items' n-grams."""
        keys = np.concatenate(list(grams_of.values()))
        owners = np.repeat(list(grams_of), [len(grams) for grams in grams_of.values()])
        order = np.argsort(keys, kind="stable")
        possible = np.zeros(1 << BITS, bool)
        possible[_first_bits(keys)] = True
        return cls(length, keys[order], owners[order], possible)

    def hits(self, text_words: list[str], hashes: Hashes) -> Iterator[tuple[int, str]]:
        """(item, n-gram) for every n-gram of a source text with the hash of one of an item's."""
        grams = _gram_hashes(hashes, self.length)
        # One look-up by 24 bits rules out nearly all n-grams; only the others are searched for.
        starts = np.flatnonzero(self.possible[_first_bits(grams)])
        first = np.searchsorted(self.keys, grams[starts], side="left")
        last = np.searchsorted(self.keys, grams[starts], side="right")
        for start, a, b in zip(starts, first, last, strict=True):
            if a < b:
                gram = " ".join(text_words[start : start + self.length])
                yield from ((int(owner), gram) for owner in self.owners[a:b])


def _tables(items: list[_Item], n: int) -> list[_Table]:
    """A table for every length of n-grams, since short items are searched for as a whole."""
    grams_by_length: dict[int, dict[int, Hashes]] = {}
    for i, item in enumerate(items):
        length = _gram_length(item.words, n)
        if length:
            grams = _gram_hashes(_word_hashes(item.words), length)
            grams_by_length.setdefault(length, {})[i] = grams
    return [_Table.of(grams_by_length[length], length) for length in sorted(grams_by_length)]


def _word_hashes(text_words: list[str]) -> Hashes:
    return np.fromiter(map(hash, text_words), np.int64, len(text_words)).view(np.uint64)


def _gram_hashes(hashes: Hashes, length: int) -> UInt64[np.ndarray, " G"]:
    """A hash of every run of `length` words: a polynomial in FACTOR, modulo 2^64."""
    count = max(0, len(hashes) - length + 1)
    total = np.zeros(count, np.uint64)
    for i in range(length):
        total = total * FACTOR + hashes[i : i + count]
    return total


def _first_bits(grams: Hashes) -> Int[np.ndarray, " W"]:
    return (grams >> np.uint64(64 - BITS)).astype(np.int64)
