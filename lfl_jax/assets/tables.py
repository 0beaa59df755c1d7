"""Rows of data files as people publish them: one reader, lenient about form, strict about content.

A table is one file (its formats: `table_readers`), or the files of a folder or of a hub's dataset,
which their names may sort into splits (`table_splits`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lfl_jax.assets import hub_names
from lfl_jax.assets.table_readers import READERS, Numbers, Row, check_kind, kind, known, no_object
from lfl_jax.assets.table_splits import files_by_split
from lfl_jax.core.files import sha256_of_files
from lfl_jax.errors import UserError


@dataclass(frozen=True)
class Shard:
    """Random access to the rows of one file."""

    name: str
    numbers: Numbers
    read: Callable[[int], Any]


@dataclass(frozen=True)
class Table(Sequence):
    """Random access to the rows of one file, or of several, one after the other.

    sha256: of the file, or of the hashes of several in their order.
    """

    name: str
    shards: tuple[Shard, ...]
    sha256: str

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        # Row i is in shard k where starts[k] <= i < starts[k + 1].
        return np.cumsum([0, *(len(shard.numbers) for shard in self.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> Row:
        if i >= len(self):  # ends iteration; readers raise errors of their own
            raise IndexError(i)
        shard, k = self._find(i)
        row = shard.read(k)
        if not isinstance(row, Mapping):  # of an array in JSON
            raise no_object(row, self.place(i))
        return row

    def place(self, i: int) -> str:
        """Where row i stands, as file:line."""
        shard, k = self._find(i)
        return f"{shard.name}:{shard.numbers[k]}"

    def _find(self, i: int) -> tuple[Shard, int]:
        k = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self.shards[k], i - int(self._starts[k])


def open_splits(path: Path) -> dict[str, Table]:
    """The tables of a file or folder by split: "train", "dev", "test"; without names, "train"."""
    return {split: read_tables(files, path.name) for split, files in files_by_split(path).items()}


def read_table(path: Path) -> Table:
    """All rows of one file, or of a dataset of a hub; JSON lines are parsed on access."""
    if hub_names.is_hub(str(path)):
        return read_tables(files_by_split(path)["train"], path.name)
    if not path.is_file():
        raise UserError(f"no data file {path}: expected an existing file of kind {known()}")
    check_kind(path)
    return read_tables([path], path.name)


def read_tables(files: Sequence[Path], name: str) -> Table:
    """The rows of several files as one table; UserError where there is none."""
    shards = tuple(Shard(file.name, *READERS[kind(file.name)](file)) for file in files)
    if not any(len(shard.numbers) for shard in shards):
        raise UserError(
            f"{files[0] if len(files) == 1 else files[0].parent} is empty: expected at least one"
            " example"
        )
    return Table(name, shards, sha256_of_files(files))
