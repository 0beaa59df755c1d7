"""Documents: text without a prompt, every token of which is learned, in random access from large files.

A file is written once as an Arrow file in the cache ($LFL_CACHE/documents) and read from there by memory map.
"""

import functools
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lfl_jax import assets
from lfl_jax.data.examples import Example
from lfl_jax.data.splits import check, split_index
from lfl_jax.errors import UserError

COLUMNS = ("text", "content")  # OpenWebMath and C4; StarCoder. The first that a file has is used.
KINDS = (".parquet", ".jsonl", ".jsonl.gz", ".json.gz")  # C4 calls its JSON lines .json.gz
BATCH = 1000  # documents written together


@dataclass(frozen=True)
class Documents(Sequence[Example]):
    """Documents `index` of several files; each is a cluster of its own, called FILE:NUMBER from 1, blank ones apart."""

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


def read_documents(files: Sequence[Path], split: str) -> Documents:
    """One split of the documents in these files; UserError for files that cannot be read as documents."""
    check(split, files[0].name)
    texts = tuple(map(_mapped, files))
    total = sum(map(len, texts))
    index = split_index(scramble(total), split)
    if not len(index):
        raise UserError(f"{files[0].name}: no document is left for split {split!r}; there are only {total} in all")
    return Documents(tuple(file.name for file in files), texts, index)


def scramble(n: int) -> np.ndarray:
    """A hash of each of 0..n-1, all different (splitmix64): it decides the split of a document."""
    x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def is_documents(file: str) -> bool:
    """Whether a file's name is of a kind that is read here."""
    return file.endswith(KINDS)


def _mapped(file: Path) -> Any:
    """The texts of a file as memory-mapped Arrow strings, written to the cache at first use."""
    import pyarrow as pa

    if not file.is_file() or not is_documents(file.name):
        raise UserError(f"no documents in {file}: expected an existing file of kind {', '.join(KINDS)}")
    status = file.stat()
    key = hashlib.sha256(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
    place = assets.scratch("documents") / f"{key}.arrow"
    if not place.is_file():
        _write(file, place)
    return pa.ipc.open_file(pa.memory_map(str(place))).read_all().column(0)


def _write(file: Path, place: Path) -> None:
    """All texts of `file` but blank ones in an Arrow file, under a temporary name until it is whole."""
    import pyarrow as pa

    place.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("text", pa.large_string())])
    partial = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for texts in (_parquet if file.suffix == ".parquet" else _json_lines)(file):
                kept = [text for text in texts if text and text.strip()]
                writer.write_batch(pa.record_batch([pa.array(kept, pa.large_string())], schema=schema))
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


def _column(names: Sequence[str], file: Path) -> str:
    for name in COLUMNS:
        if name in names:
            return name
    raise UserError(f"{file}: found the fields {', '.join(sorted(names))}; documents need {' or '.join(COLUMNS)}")


def _parquet(file: Path) -> Iterator[list[str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{file}: not a readable Parquet file ({error})") from error
    column = _column(rows.schema_arrow.names, file)
    for batch in rows.iter_batches(BATCH, columns=[column]):
        yield batch.column(0).to_pylist()


def _json_lines(file: Path) -> Iterator[list[str]]:
    opener: Callable = gzip.open if file.suffix == ".gz" else open
    column, texts = "", []
    try:
        with opener(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = _row(line, f"{file}:{number}")
                column = column or _column(list(row), file)
                if not isinstance(row.get(column), str):
                    raise UserError(f"{file}:{number}: field {column!r} is missing or no text")
                texts.append(row[column])
                if len(texts) == BATCH:
                    yield texts
                    texts = []
    except (gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{file}: damaged gzip file ({error})") from error
    if texts:
        yield texts
    elif not column:
        raise UserError(f"{file} is empty: expected at least one document")


def _row(line: bytes, place: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not valid JSON ({error}); expected one object a line") from error
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected an object with named fields, found {type(row).__name__}")
    return row
