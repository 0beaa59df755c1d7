"""Packers that grain does not bring, as iterators over another one, resumable from a few numbers.

`parent` yields encoded examples and has get_state and set_state, as grain's iterators do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfl_jax.data.formatting import Encoded
from lfl_jax.errors import UserError

Row = dict[str, np.ndarray]
MOST_LEFT = 8  # rows left over, as a multiple of the rows of a group, before packing gives up


def blank_row(seq_len: int, pad_id: int) -> Row:
    """A row of padding."""
    fill = {
        "tokens": pad_id,
        "targets": pad_id,
        "weights": 0.0,
        "segment_ids": 0,
        "positions": 0,
        "example_ids": -1,
    }
    return {
        k: np.full(seq_len, v, np.float32 if k == "weights" else np.int32) for k, v in fill.items()
    }


def filled_row(pieces: Sequence[Encoded], seq_len: int, pad_id: int) -> Row:
    """These pieces behind each other, a segment each, then padding."""
    row, end = blank_row(seq_len, pad_id), 0
    for segment, piece in enumerate(pieces, 1):
        start, end = end, end + len(piece["tokens"])
        for name, values in piece.items():
            row[name][start:end] = values
        row["segment_ids"][start:end] = segment
        row["positions"][start:end] = np.arange(end - start)
    return row


class Concat:
    """Rows cut from all examples joined end to end: nothing is dropped, an example may go on in the
    next row.

    Only the last row of a finite stream has padding.
    """

    def __init__(self, parent: Any, *, seq_len: int, pad_id: int):
        self.parent, self.seq_len, self.pad_id = parent, seq_len, pad_id
        self.open: Encoded | None = None  # the example that the next row goes on with,
        self.used = 0  # after so many of its tokens,
        self.before: Any = None  # and the parent's state before it

    def __next__(self) -> Row:
        pieces, room = [], self.seq_len
        while room and self._open():
            piece = {
                name: values[self.used : self.used + room] for name, values in self.open.items()
            }
            pieces.append(piece)
            room -= len(piece["tokens"])
            self.used += len(piece["tokens"])
            if self.used == len(self.open["tokens"]):
                self.open = None
        if not pieces:
            raise StopIteration
        return filled_row(pieces, self.seq_len, self.pad_id)

    def _open(self) -> bool:
        """Whether there is a token left to take."""
        if self.open is None:
            self.before, self.used = self.parent.get_state(), 0
            self.open = next(self.parent, None)
        return self.open is not None

    def get_state(self) -> dict[str, Any]:
        """What set_state needs to go on bit for bit."""
        inside = self.open is not None
        return {
            "parent": self.before if inside else self.parent.get_state(),
            "used": self.used if inside else 0,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where get_state was asked."""
        self.parent.set_state(state["parent"])
        self.open, self.used = None, 0
        if state["used"] and self._open():
            self.used = state["used"]


@dataclass(frozen=True)
class Bin:
    """Examples that share a row, each with the parent's state before it."""

    size: int
    members: tuple[tuple[Any, Encoded], ...]

    def __add__(self, other: "Bin") -> "Bin":
        return Bin(self.size + other.size, self.members + other.members)


def fit(new: Sequence[Bin], old: Sequence[Bin], *, rows: int, seq_len: int) -> list[Bin]:
    """llm-foundry's bin packing: the longest first, each to the first bin with room; the fullest
    bins first.

    A bin that receives an example moves to the end of the line. When as many examples remain as
    bins are missing to fill `rows`, each gets a bin of its own.
    """
    bins, waiting = list(old), sorted(new, key=lambda one: one.size, reverse=True)
    for i, one in enumerate(waiting):
        spread = len(waiting) - i <= rows - len(bins)
        free = (
            j for j, found in enumerate(bins) if not spread and found.size + one.size <= seq_len
        )
        at = next(free, None)
        bins.append(one if at is None else bins.pop(at) + one)
    return sorted(bins, key=lambda found: found.size, reverse=True)


class Ratio:
    """llm-foundry's BinPackCollator: `rows` rows of every rows * ratio examples; what does not fit
    waits.

    Unlike there, what waits survives a restart. A finite stream ends with all rows there are.
    Raises UserError when more and more waits, because the rows are too few for the examples.
    """

    def __init__(self, parent: Any, *, rows: int, ratio: float, seq_len: int, pad_id: int):
        self.parent, self.rows, self.ratio, self.seq_len, self.pad_id = (
            parent,
            rows,
            ratio,
            seq_len,
            pad_id,
        )
        self.group: list[Bin] = []
        self.at = 0  # row of the group that comes next
        self.left: list[Bin] = []
        self.before: dict[str, Any] = {}  # parent's state and what was left before the group

    def __next__(self) -> Row:
        if self.at == len(self.group):
            self._pack()
        self.at += 1
        pieces = [example for _, example in self.group[self.at - 1].members]
        return filled_row(pieces, self.seq_len, self.pad_id)

    def _pack(self) -> None:
        self.before = {"parent": self.parent.get_state(), "left": self._left()}
        taken = taken_of(self.rows, self.ratio)
        new = list(self._take(taken))
        if not new and not self.left:
            raise StopIteration
        bins = fit(new, self.left, rows=self.rows, seq_len=self.seq_len)
        whole = len(new) == taken
        self.group, self.left = (bins[: self.rows], bins[self.rows :]) if whole else (bins, [])
        self.at = 0
        if len(self.left) > MOST_LEFT * self.rows:
            raise too_many(self.ratio, self.seq_len)

    def _take(self, n: int) -> Iterator[Bin]:
        for _ in range(n):
            before = self.parent.get_state()
            example = next(self.parent, None)
            if example is None:
                return
            yield Bin(len(example["tokens"]), ((before, example),))

    def _left(self) -> list[list[Any]]:
        return [[state for state, _ in found.members] for found in self.left]

    def get_state(self) -> dict[str, Any]:
        """What set_state needs to go on bit for bit: it grows with what waits."""
        if self.at < len(self.group):
            return {**self.before, "row": self.at}
        return {"parent": self.parent.get_state(), "left": self._left(), "row": 0}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where get_state was asked."""
        self.left, self.group, self.at = [], [], 0
        for members in state["left"]:
            found = []
            for member in members:
                self.parent.set_state(member)
                found.append((member, next(self.parent)))
            self.left.append(Bin(sum(len(example["tokens"]) for _, example in found), tuple(found)))
        self.parent.set_state(state["parent"])
        if state["row"]:
            self._pack()
            self.at = state["row"]


def taken_of(rows: int, ratio: float) -> int:
    """Examples that a group of `rows` rows takes, as llm-foundry rounds it."""
    return int(rows * ratio)


def too_many(ratio: float, seq_len: int) -> UserError:
    """The error for rows that cannot hold what they are given."""
    return UserError(
        f"config.data.packing_ratio={ratio:g} gives rows of config.data.seq_len={seq_len} more"
        " tokens than they hold;"
        " lower it"
    )
