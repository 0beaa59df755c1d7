"""Documents: text without a prompt, every token of which is learned, in random access.

A file is written once as an Arrow file in the cache ($LFL_CACHE/documents) and read from there by
memory map, so that files larger than memory work.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int, UInt64

from lfl_jax import assets
from lfl_jax.assets import table_readers, tables
from lfl_jax.assets.compressed import Budget
from lfl_jax.assets.table_readers import Row
from lfl_jax.core import files as core_files
from lfl_jax.data.columns import NAMES
from lfl_jax.data.examples import Example
from lfl_jax.data.splits import SPLITS, check, split_index
from lfl_jax.errors import UserError

if TYPE_CHECKING:
    import pyarrow

TEXT_COLUMNS = NAMES["text"]  # the first that a file has is used
BATCH = 1000  # documents written together


@dataclass(frozen=True)
class Documents(Sequence[Example]):
    """Documents `index` of several files; blank ones are not counted.

    Each is a cluster of its own. Its id is FILE:NUMBER, counted from 1.
    """

    names: tuple[str, ...]
    texts: tuple["pyarrow.ChunkedArray", ...]  # of each file
    index: Int[np.ndarray, " N"]

    @functools.cached_property
    def _starts(self) -> Int[np.ndarray, " F"]:
        return np.cumsum([0, *map(len, self.texts)])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Example:
        row = int(self.index[i])
        file = int(np.searchsorted(self._starts, row, side="right")) - 1
        number = row - int(self._starts[file])
        name = f"{self.names[file]}:{number + 1}"
        return Example("", self.texts[file][number].as_py(), id=name, cluster=name)


def read_documents(
    files: Sequence[Path], split: str, column: str = "", held_out: tuple[str, ...] = SPLITS[1:]
) -> Documents:
    """One split of the documents in these files, of which each split in `held_out` gets 2 %.

    column: with the text; by default the first of TEXT_COLUMNS. Raises UserError for files that
    cannot be read as documents.
    """
    check(split, files[0].name)
    texts = tuple(_memory_mapped(file, column) for file in files)
    total = sum(map(len, texts))
    index = split_index(scramble(total), split, held_out)
    if not len(index):
        raise UserError(
            f"{files[0].name}: no document is left for split {split!r}; there are only {total} in"
            f" all. Give documents of your own in config.data.{split}_path, or set"
            " config.eval.tasks=() and config.eval.every_tasks=()"
        )
    return Documents(tuple(file.name for file in files), texts, index)


def scramble(n: int) -> UInt64[np.ndarray, " {n}"]:
    """A hash of each of 0..n-1, all different (splitmix64): it decides the split of a document.

    Hashing numbers instead of texts needs no pass over a corpus.
    """
    x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _memory_mapped(file: Path, column: str) -> "pyarrow.ChunkedArray":
    """The texts of a file, from the cache, where they are written first if need be."""
    import pyarrow as pa

    if not file.is_file() or not table_readers.is_table(file.name):
        raise UserError(
            f"no documents in {file}: expected an existing file of kind"
            f" {', '.join(table_readers.READERS)}"
        )
    # A changed file has another size or time, so that it is another entry of the cache.
    status = file.stat()
    identity = f"{file.resolve()} {status.st_size} {status.st_mtime_ns} {column}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    arrow_file = assets.scratch("documents") / f"{key}.arrow"
    if not arrow_file.is_file():
        _write(file, column, arrow_file)
    return pa.ipc.open_file(pa.memory_map(str(arrow_file))).read_all().column(0)


def _write(file: Path, column: str, arrow_file: Path) -> None:
    """Write all texts of `file` but blank ones as an Arrow file."""
    import pyarrow as pa

    batches = TEXTS.get(table_readers.kind(file.name), _texts_of_rows)(file, column)
    schema = pa.schema([("text", pa.large_string())])
    with (
        core_files.replacing(arrow_file) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for texts in batches:
            documents = [text for text in texts if text and text.strip()]
            array = pa.array(documents, pa.large_string())
            writer.write_batch(pa.record_batch([array], schema=schema))


def _text_column(requested: str, names: Sequence[str], file: Path) -> str:
    for name in (requested,) if requested else TEXT_COLUMNS:
        if name in names:
            return name
    expected = requested or " or ".join(TEXT_COLUMNS)
    raise UserError(
        f"{file}: found the fields {', '.join(sorted(names))}; documents need {expected}; name"
        " yours with config.data.columns=text=COLUMN"
    )


# Readers: (file, requested column) -> batches of texts.
def _parquet(file: Path, requested: str) -> Iterator[list[str]]:
    """Of Parquet, only the one column is read."""
    with table_readers.open_parquet(file) as rows:
        column = _text_column(requested, rows.schema_arrow.names, file)
        budget, size = Budget(file), file.stat().st_size
        for number, batch in enumerate(rows.iter_batches(BATCH, columns=[column])):
            texts = table_readers.python_values(batch.column(0), str(file))
            wrong = next((text for text in texts if not isinstance(text, str | None)), None)
            if wrong is not None:
                location = f"{file}, rows from {number * BATCH + 1} on"
                raise UserError(f"{location}: field {column!r} is no text but {wrong!r:.40}")
            # Their own size: a column's may be that of a dictionary.
            budget.spend(sum(map(len, filter(None, texts))), size)
            yield texts


def _json(file: Path, requested: str) -> Iterator[list[str]]:
    """An array, or lines: C4 calls its lines .json.gz."""
    read = _texts_of_rows if table_readers.holds_array(file) else _json_lines
    yield from read(file, requested)


def _json_lines(file: Path, requested: str) -> Iterator[list[str]]:
    """JSON lines as they are unpacked: they may be larger than memory."""
    yield from _batches(file, requested, table_readers.stream_json_lines(file))


def _texts_of_rows(file: Path, requested: str) -> Iterator[list[str]]:
    """Any other table."""
    table = tables.read_table(file)
    rows = ((table.place(i), row) for i, row in enumerate(table))
    yield from _batches(file, requested, rows)


TEXTS: dict[str, Callable[[Path, str], Iterator[list[str]]]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".json": _json,
}


def _batches(file: Path, requested: str, rows: Iterator[tuple[str, Row]]) -> Iterator[list[str]]:
    """Texts of (location, row) pairs, BATCH at a time; UserError for a file without rows."""
    column, texts = "", []
    for location, row in rows:
        column = column or _text_column(requested, list(row), file)  # by the first row
        if not isinstance(row.get(column), str):
            raise UserError(f"{location}: field {column!r} is missing or no text")
        texts.append(row[column])
        if len(texts) == BATCH:
            yield texts
            texts = []
    if texts:
        yield texts
    elif not column:
        raise UserError(f"{file} is empty: expected at least one document")
