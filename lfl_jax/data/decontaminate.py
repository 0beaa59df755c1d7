"""Which evaluation items a training source contains: word n-grams that both have (13, as for GPT-3,
2005.14165).

Texts are compared as lm-evaluation-harness's janitor does: lower-case, without ASCII punctuation,
split at white space.
"""

import functools
import itertools
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

N = 13  # words
# an item of fewer words than N is looked for as a whole, unless it has fewer than these
SHORTEST = 8
STRIPPED = str.maketrans("", "", string.punctuation)
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, for hashes of sequences modulo 2^64
BITS = 24  # of a hash, in the table that most n-grams are ruled out by

Items = Mapping[str, Mapping[str, str]]  # {task: {item id: text}}


def words(text: str) -> list[str]:
    """The words that are compared."""
    return text.lower().translate(STRIPPED).split()


def overlaps(
    source_texts: Iterable[str],
    items: Items,
    n: int = N,
    progress: Callable[[int], None] = lambda texts: None,
) -> dict[str, dict[str, str]]:
    """{task: {id of an item that a source text overlaps: the n-gram}}, in one pass over the source.

    An item shorter than n words is looked for as a whole. progress is called with 1 after every
    source text.
    """
    flat = [
        _Item(task, name, words(text))
        for task, texts in items.items()
        for name, text in texts.items()
    ]
    lengths = {_length(item.words, n) for item in flat} - {0}
    tables = [_table(flat, length, n) for length in sorted(lengths)]
    shared: dict[int, str] = {}  # item's index: the first n-gram that it shares with a source text
    for text in source_texts:
        own = words(text)
        hashes = _hashes(own)
        hits = itertools.chain.from_iterable(_hits(table, own, hashes) for table in tables)
        for owner, gram in hits:
            # equal hashes are not yet equal words
            if owner not in shared and flat[owner].contains(gram):
                shared[owner] = gram
        progress(1)

    result: dict[str, dict[str, str]] = {task: {} for task in items}
    for owner in sorted(shared):
        result[flat[owner].task][flat[owner].id] = shared[owner]
    return result


def report(
    found: Mapping[str, Mapping[str, str]], items: Items, source: dict[str, Any], n: int = N
) -> dict[str, Any]:
    """What `overlaps` found as JSON: per task the number of items, those too short to look for, and
    the overlapping.

    source: its provenance.
    """
    tasks = {
        task: {
            "items": len(texts),
            "too_short": sum(not _length(words(text), n) for text in texts.values()),
            "overlapping": len(found[task]),
            "ngrams": dict(found[task]),
        }
        for task, texts in items.items()
    }
    return {
        "n": n,
        "normalised": "lower-case, no ASCII punctuation",
        "source": source,
        "tasks": tasks,
    }


def item_text(item: Any) -> str:
    """Everything an evaluation item says: its texts, but not its names."""
    fields = {
        name: value
        for name, value in vars(item).items()
        if name not in ("id", "cluster", "group", "groups", "form")
    }
    return "\n".join(text for value in fields.values() for text in _strings(value))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _strings(part)


def _length(item: list[str], n: int) -> int:
    """Words of the n-grams to look for an item by; 0 for an item that is too short."""
    return min(n, len(item)) if len(item) >= min(SHORTEST, n) else 0


@dataclass(frozen=True)
class _Item:
    """An evaluation item, as the words that are looked for."""

    task: str
    id: str
    words: list[str]

    @functools.cached_property
    def _spaced(self) -> str:
        return f" {' '.join(self.words)} "

    def contains(self, gram: str) -> bool:
        """Whether these words follow each other in it."""
        return f" {gram} " in self._spaced


@dataclass(frozen=True)
class _Table:
    """Hashes of all n-grams of one length, sorted, and the items they are of."""

    length: int
    keys: np.ndarray
    owners: np.ndarray
    maybe: np.ndarray  # by the first bits of a hash: whether any key has them


def _table(flat: list[_Item], length: int, n: int) -> _Table:
    own = {
        i: _grams(_hashes(item.words), length)
        for i, item in enumerate(flat)
        if _length(item.words, n) == length
    }
    keys = np.concatenate(list(own.values()))
    owners = np.repeat(list(own), list(map(len, own.values())))
    order = np.argsort(keys, kind="stable")
    maybe = np.zeros(1 << BITS, bool)
    maybe[_first_bits(keys)] = True
    return _Table(length, keys[order], owners[order], maybe)


def _hashes(own: list[str]) -> np.ndarray:
    return np.fromiter(map(hash, own), np.int64, len(own)).view(np.uint64)


def _grams(hashes: np.ndarray, length: int) -> np.ndarray:
    """A hash of every run of `length` words."""
    count = max(0, len(hashes) - length + 1)
    total = np.zeros(count, np.uint64)
    for i in range(length):
        total = total * FACTOR + hashes[i : i + count]
    return total


def _first_bits(grams: np.ndarray) -> np.ndarray:
    return (grams >> np.uint64(64 - BITS)).astype(np.int64)


def _hits(table: _Table, own: list[str], hashes: np.ndarray) -> Iterator[tuple[int, str]]:
    """(item, n-gram) for every n-gram of a source text with the hash of one of an item's."""
    grams = _grams(hashes, table.length)
    at = np.flatnonzero(table.maybe[_first_bits(grams)])
    first, last = (np.searchsorted(table.keys, grams[at], side=side) for side in ("left", "right"))
    for start, a, b in zip(at, first, last, strict=True):
        if a < b:
            gram = " ".join(own[start : start + table.length])
            yield from ((int(owner), gram) for owner in table.owners[a:b])
