"""Documents: text without a prompt, every token of which is learned, in random access from large
files.

A file is written once as an Arrow file in the cache ($LFL_CACHE/documents) and read from there by
memory map.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lfl_jax import assets
from lfl_jax.assets import table_readers, tables
from lfl_jax.core import files
from lfl_jax.data.columns import NAMES
from lfl_jax.data.examples import Example
from lfl_jax.data.splits import SPLITS, check, split_index
from lfl_jax.errors import UserError

COLUMNS = NAMES["text"]  # the first that a file has is used
BATCH = 1000  # documents written together


@dataclass(frozen=True)
class Documents(Sequence[Example]):
    """Documents `index` of several files; each is a cluster of its own, called FILE:NUMBER from 1,
    blank ones apart."""

    names: tuple[str, ...]
    texts: tuple[Any, ...]  # of each file, Arrow strings
    index: np.ndarray

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self.texts)])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Example:
        row = int(self.index[i])
        file = int(np.searchsorted(self._starts, row, side="right")) - 1
        number = row - int(self._starts[file])
        place = f"{self.names[file]}:{number + 1}"
        return Example("", self.texts[file][number].as_py(), id=place, cluster=place)


def read_documents(
    files: Sequence[Path], split: str, column: str = "", held_out: tuple[str, ...] = SPLITS[1:]
) -> Documents:
    """One split of the documents in these files, of which each in `held_out` gets 2 %, in their
    column (COLUMNS).

    Raises UserError for files that cannot be read as documents.
    """
    check(split, files[0].name)
    texts = tuple(_mapped(file, column) for file in files)
    total = sum(map(len, texts))
    index = split_index(scramble(total), split, held_out)
    if not len(index):
        raise UserError(
            f"{files[0].name}: no document is left for split {split!r}; there are only {total} in"
            " all. Give documents"
            f" of your own in config.data.{split}_path, or set config.eval.tasks=() and"
            " config.eval.every_tasks=()"
        )
    return Documents(tuple(file.name for file in files), texts, index)


def scramble(n: int) -> np.ndarray:
    """A hash of each of 0..n-1, all different (splitmix64): it decides the split of a document."""
    x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mapped(file: Path, column: str) -> Any:
    """The texts of a file as memory-mapped Arrow strings, written to the cache at first use."""
    import pyarrow as pa

    if not file.is_file() or not table_readers.is_table(file.name):
        raise UserError(
            f"no documents in {file}: expected an existing file of kind"
            f" {', '.join(table_readers.READERS)}"
        )
    status = file.stat()
    key = hashlib.sha256(
        f"{file.resolve()} {status.st_size} {status.st_mtime_ns} {column}".encode()
    ).hexdigest()[:16]
    place = assets.scratch("documents") / f"{key}.arrow"
    if not place.is_file():
        _write(file, column, place)
    return pa.ipc.open_file(pa.memory_map(str(place))).read_all().column(0)


def _write(file: Path, column: str, place: Path) -> None:
    """All texts of `file` but blank ones in an Arrow file, under a temporary name until it is
    whole."""
    import pyarrow as pa

    schema = pa.schema([("text", pa.large_string())])
    with (
        files.replacing(place) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for texts in TEXTS.get(table_readers.kind(file.name), _rows)(file, column):
            documents = pa.array(
                [text for text in texts if text and text.strip()], pa.large_string()
            )
            writer.write_batch(pa.record_batch([documents], schema=schema))


def _column(given: str, names: Sequence[str], file: Path) -> str:
    for name in (given,) if given else COLUMNS:
        if name in names:
            return name
    expected = given or " or ".join(COLUMNS)
    raise UserError(
        f"{file}: found the fields {', '.join(sorted(names))}; documents need {expected}; name"
        " yours with"
        " config.data.columns=text=COLUMN"
    )


def _parquet(file: Path, given: str) -> Iterator[list[str]]:
    """Of Parquet, the one column that is needed."""
    with table_readers.open_parquet(file) as rows:
        column = _column(given, rows.schema_arrow.names, file)
        for batch in rows.iter_batches(BATCH, columns=[column]):
            yield batch.column(0).to_pylist()


def _json(file: Path, given: str) -> Iterator[list[str]]:
    """An array, or lines (C4 calls its own .json.gz)."""
    yield from _rows(file, given) if table_readers.holds_array(file) else _json_lines(file, given)


def _json_lines(file: Path, given: str) -> Iterator[list[str]]:
    """JSON lines as they are unpacked: they may be larger than memory."""
    yield from _batches(file, given, table_readers.stream_json_lines(file))


def _rows(file: Path, given: str) -> Iterator[list[str]]:
    table = tables.read_table(file)
    yield from _batches(file, given, ((table.place(i), row) for i, row in enumerate(table)))


def _batches(file: Path, given: str, rows: Iterator[tuple[str, Any]]) -> Iterator[list[str]]:
    column, texts = "", []
    for place, row in rows:
        column = column or _column(given, list(row), file)
        if not isinstance(row.get(column), str):
            raise UserError(f"{place}: field {column!r} is missing or no text")
        texts.append(row[column])
        if len(texts) == BATCH:
            yield texts
            texts = []
    if texts:
        yield texts
    elif not column:
        raise UserError(f"{file} is empty: expected at least one document")


TEXTS: dict[str, Callable[[Path, str], Iterator[list[str]]]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".json": _json,
}
