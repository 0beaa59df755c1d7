"""Packers over an iterator of encoded examples, resumable from a few numbers.

The state of a packer is JSON, since a checkpoint stores it. It holds no tokens: they are read again
from the parent, at the parent's states that it holds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lfl_jax.data.tokenized import Encoded
from lfl_jax.errors import UserError

Row = dict[str, np.ndarray]
State = dict[str, Any]  # JSON
PADDING = {"weights": 0.0, "segment_ids": 0, "positions": 0, "example_ids": -1}
MAX_WAITING_GROUPS = 8  # groups of rows that may wait before packing gives up


@runtime_checkable
class ResumableIterator(Protocol):
    """An iterator that resumes from its state, as grain's do."""

    def __next__(self) -> dict[str, np.ndarray]:
        """The next element."""

    def get_state(self) -> State:
        """The state before the next element."""

    def set_state(self, state: State) -> None:
        """Continue with the element after this state."""


def empty_row(seq_len: int, pad_id: int) -> Row:
    """A row of padding."""
    fill = {"tokens": pad_id, "targets": pad_id} | PADDING
    row = {name: np.full(seq_len, value, np.int32) for name, value in fill.items()}
    return row | {"weights": row["weights"].astype(np.float32)}


def filled_row(pieces: Sequence[Encoded], seq_len: int, pad_id: int) -> Row:
    """These pieces concatenated, a segment each, then padding."""
    row, end = empty_row(seq_len, pad_id), 0
    for segment, piece in enumerate(pieces, 1):
        start, end = end, end + len(piece["tokens"])
        for name, values in piece.items():
            row[name][start:end] = values
        row["segment_ids"][start:end] = segment
        row["positions"][start:end] = np.arange(end - start)
    return row


class Concat:
    """Rows cut from all examples concatenated: nothing is dropped, and a row may end inside one.

    Only the last row of a finite stream has padding.
    """

    # grain.experimental.ConcatThenSplitIterDataset (0.2.18) packs the same rows, but its state has
    # tuples: read back from a checkpoint's JSON, "no remainder" is taken for one, and the run
    # resumes without that example. It also takes 1.6 times as long, at 180 us for a row of 64.

    def __init__(self, parent: ResumableIterator, *, seq_len: int, pad_id: int):
        self.parent, self.seq_len, self.pad_id = parent, seq_len, pad_id
        self.open: Encoded | None = None  # the example that the last row ended in,
        self.used = 0  # its tokens that are in earlier rows,
        self.before: State | None = None  # and the parent's state before it

    def __next__(self) -> Row:
        pieces, room = [], self.seq_len
        while room and self._has_tokens():
            cut = slice(self.used, self.used + room)
            pieces.append({name: values[cut] for name, values in self.open.items()})
            new = len(pieces[-1]["tokens"])
            room -= new
            self.used += new
            if self.used == len(self.open["tokens"]):
                self.open = None
        if not pieces:
            raise StopIteration
        return filled_row(pieces, self.seq_len, self.pad_id)

    def _has_tokens(self) -> bool:
        """Opens the next example where none is open; False at the end of the parent."""
        if self.open is None:
            self.before, self.used = self.parent.get_state(), 0
            self.open = next(self.parent, None)
        return self.open is not None

    def get_state(self) -> State:
        """The position inside the open example, by the parent's state before it."""
        if self.open is None:
            return {"parent": self.parent.get_state(), "used": 0}
        return {"parent": self.before, "used": self.used}

    def set_state(self, state: State) -> None:
        """Continue from that position."""
        self.parent.set_state(state["parent"])
        self.open, self.used = None, 0
        if state["used"] and self._has_tokens():
            self.used = state["used"]


@dataclass(frozen=True)
class Bin:
    """Examples that share a row, and the parent's state before each of them."""

    size: int  # tokens
    examples: tuple[Encoded, ...]
    states: tuple[State, ...]

    def __add__(self, other: "Bin") -> "Bin":
        return Bin(
            self.size + other.size, self.examples + other.examples, self.states + other.states
        )


def fit(new: Sequence[Bin], open_bins: Sequence[Bin], *, rows: int, seq_len: int) -> list[Bin]:
    """llm-foundry's bin packing: the longest first, into the first bin with room; fullest first.

    A bin that receives an example moves to the end. When no more examples remain than bins are
    missing to fill `rows`, each gets a bin of its own.
    """
    bins, waiting = list(open_bins), sorted(new, key=lambda example: example.size, reverse=True)
    for i, example in enumerate(waiting):
        remaining, missing = len(waiting) - i, rows - len(bins)
        has_room = (j for j, b in enumerate(bins) if b.size + example.size <= seq_len)
        target = next(has_room, None) if remaining > missing else None
        bins.append(example if target is None else bins.pop(target) + example)
    return sorted(bins, key=lambda b: b.size, reverse=True)


class BinPacker:
    """llm-foundry's BinPackCollator: `rows` rows of every rows * ratio examples; others wait.

    Unlike there, waiting examples survive a restart. A finite stream ends with all that remain.
    Raises UserError when ever more examples wait, because the rows are too few for them.
    """

    def __init__(
        self, parent: ResumableIterator, *, rows: int, ratio: float, seq_len: int, pad_id: int
    ):
        self.parent, self.rows, self.ratio = parent, rows, ratio
        self.seq_len, self.pad_id = seq_len, pad_id
        self.group: list[Bin] = []
        self.next_row = 0  # of the group
        self.waiting: list[Bin] = []
        self.before: State = {}  # the parent's state and what waited before this group

    def __next__(self) -> Row:
        if self.next_row == len(self.group):
            self._pack_group()
        examples = self.group[self.next_row].examples
        self.next_row += 1
        return filled_row(examples, self.seq_len, self.pad_id)

    def _pack_group(self) -> None:
        self.before = self._position()
        size = examples_per_group(self.rows, self.ratio)
        new = list(self._read(size))
        if not new and not self.waiting:
            raise StopIteration

        bins = fit(new, self.waiting, rows=self.rows, seq_len=self.seq_len)
        # At the end of a finite stream nothing can follow, so that everything is emitted.
        rows = self.rows if len(new) == size else len(bins)
        self.group, self.waiting, self.next_row = bins[:rows], bins[rows:], 0
        if len(self.waiting) > MAX_WAITING_GROUPS * self.rows:
            raise packing_overflow_error(self.ratio, self.seq_len)

    def _read(self, n: int) -> Iterator[Bin]:
        for _ in range(n):
            before = self.parent.get_state()
            example = next(self.parent, None)
            if example is None:
                return
            yield Bin(len(example["tokens"]), (example,), (before,))

    def _position(self) -> State:
        """The parent's state, and of each waiting bin the states before its examples."""
        return {"parent": self.parent.get_state(), "left": [list(b.states) for b in self.waiting]}

    def get_state(self) -> State:
        """The position before the current group, and the next row of it; grows with what waits."""
        if self.next_row < len(self.group):
            return {**self.before, "row": self.next_row}
        return {**self._position(), "row": 0}

    def set_state(self, state: State) -> None:
        """Read the waiting examples again, then the group, and continue at its row."""
        self.waiting, self.group, self.next_row = [], [], 0
        for states in state["left"]:
            examples = []
            for before in states:
                self.parent.set_state(before)
                examples.append(next(self.parent))
            size = sum(len(example["tokens"]) for example in examples)
            self.waiting.append(Bin(size, tuple(examples), tuple(states)))

        self.parent.set_state(state["parent"])
        if state["row"]:
            self._pack_group()
            self.next_row = state["row"]


def examples_per_group(rows: int, ratio: float) -> int:
    """Examples that a group of `rows` rows takes, rounded as llm-foundry does."""
    return int(rows * ratio)


def packing_overflow_error(ratio: float, seq_len: int) -> UserError:
    """The error for rows that are too few for the examples."""
    return UserError(
        f"config.data.packing_ratio={ratio:g} gives rows of config.data.seq_len={seq_len} more"
        " tokens than they hold; lower it"
    )
