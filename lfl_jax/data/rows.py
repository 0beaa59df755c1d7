"""Rows of a JSONL, JSON or Parquet file, and their mapping to examples."""

import functools
import gzip
import hashlib
import json
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lfl_jax.data.examples import Example
from lfl_jax.data.splits import SPLITS, check, digest, split_index
from lfl_jax.errors import UserError

Numbers = np.ndarray | range


@dataclass(frozen=True)
class Fields:
    """Names of the columns that hold the prompt, an optional addition to the prompt, and the response."""

    prompt: str
    response: str
    context: str = ""


# The first pair whose two names a file has is used.
FIELDS = (
    Fields("prompt", "response"),
    Fields("question", "answer"),  # GSM8K
    Fields("query", "response"),  # MetaMathQA
    Fields("instruction", "output", context="input"),  # Alpaca
    Fields("instruction", "response"),  # Magicoder-Evol-Instruct
    Fields("problem", "solution"),  # MATH
)
# MetaMathQA rewrites each question many times: the rewrites belong to one cluster, or held-out items leak.
CLUSTER_FIELDS = ("cluster", "original_question")


@dataclass(frozen=True)
class Table(Sequence):
    """Random access to the rows of one file; `numbers` are its lines (JSONL) or rows, counted from 1."""

    name: str
    numbers: Numbers
    read: Callable[[int], Mapping]
    sha256: str

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Mapping:
        if i >= len(self):  # ends iteration; readers raise errors of their own
            raise IndexError(i)
        row = self.read(i)
        if not isinstance(row, Mapping):
            raise UserError(f"{self.place(i)}: expected an object with named fields, found {type(row).__name__}")
        return row

    def place(self, i: int) -> str:
        """Where row i stands, as file:line."""
        return f"{self.name}:{self.numbers[i]}"


@dataclass(frozen=True)
class TableExamples(Sequence):
    """Rows `index` of a table as examples; rows are read when asked for."""

    table: Table
    fields: Fields
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Example:
        row = int(self.index[i])
        return to_example(self.table[row], self.table.place(row), self.fields)


def read_table(path: Path) -> Table:
    """Open a .jsonl, .json (an array) or .parquet file, the first two also .gz; JSONL is parsed on access."""
    if not path.is_file():
        raise UserError(f"no data file {path}: give the path of an existing .jsonl, .json or .parquet file")
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix not in READERS:
        raise UserError(f"{path}: cannot read {suffix or 'a file without suffix'}; known: {', '.join(READERS)}")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    numbers, read = READERS[suffix](path)
    if not len(numbers):
        raise UserError(f"{path} is empty: expected at least one example")
    return Table(path.name, numbers, read, sha256)


def split_examples(table: Table, split: str, held_out: tuple[str, ...] = SPLITS[1:]) -> TableExamples:
    """Check every row and take one split; UserError names the file and line of the first bad row."""
    check(split, table.name)
    fields = find_fields(table)
    clusters = [int(to_example(row, table.place(i), fields).cluster, 16) for i, row in enumerate(table)]
    index = split_index(clusters, split, held_out)
    if not len(index):
        raise UserError(f"{table.name}: no example is left for split {split!r}; there are only {len(table)} in all")
    return TableExamples(table, fields, index)


def find_fields(table: Table) -> Fields:
    """The prompt and response columns of a table, judged by its first row."""
    keys = set(table[0])
    for fields in FIELDS:
        if {fields.prompt, fields.response} <= keys:
            return fields
    known = ", ".join(f"{f.prompt}/{f.response}" for f in FIELDS)
    raise UserError(f"{table.place(0)}: found the fields {', '.join(sorted(keys))}; expected a pair of {known}")


def to_example(row: Mapping, place: str, fields: Fields) -> Example:
    """A row as an example; its id is `place`, its cluster the hash of the problem it was made from."""
    prompt, response = _text(row, place, fields.prompt), _text(row, place, fields.response)
    if row.get(fields.context):
        prompt = f"{prompt}\n{_text(row, place, fields.context)}"
    named = [name for name in CLUSTER_FIELDS if name in row]
    problem = _text(row, place, named[0]) if named else prompt
    return Example(prompt, response, id=place, cluster=f"{digest(problem):016x}")


def _text(row: Mapping, place: str, name: str) -> str:
    if name not in row:
        raise UserError(f"{place}: no field {name!r}, which the first row has; found {', '.join(row)}")
    value = row[name].decode() if isinstance(row[name], bytes) else row[name]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: field {name!r} is {value!r:.40}, expected text that is not empty")
    return value


def _bytes(path: Path) -> "bytes | mmap.mmap":
    if path.suffix == ".gz":
        try:
            return gzip.decompress(path.read_bytes())
        except (OSError, EOFError) as error:
            raise UserError(f"{path}: damaged gzip file ({error})") from error
    with path.open("rb") as file:  # an empty file cannot be mapped
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _json_lines(path: Path) -> tuple[Numbers, Callable[[int], Mapping]]:
    data = _bytes(path)
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    starts = np.concatenate([[0], ends + 1]).astype(np.int64)
    ends = np.concatenate([ends, [len(data)]]).astype(np.int64)
    numbers = np.array([n for n, (a, b) in enumerate(zip(starts, ends, strict=True), 1) if data[a:b].strip()])
    return numbers, functools.partial(_json_line, path, data, starts, ends, numbers)


def _json_line(path, data, starts, ends, numbers, i: int):
    line = int(numbers[i]) - 1
    try:
        return json.loads(data[starts[line] : ends[line]])
    except ValueError as error:
        raise UserError(f"{path}:{line + 1}: not valid JSON ({error}); expected one object a line") from error


def _json_array(path: Path) -> tuple[Numbers, Callable[[int], Mapping]]:
    try:
        rows = json.loads(bytes(_bytes(path)) or "[]")
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected an array of objects; a file with one object a line is named .jsonl")
    return range(1, len(rows) + 1), rows.__getitem__


def _parquet(path: Path) -> tuple[Numbers, Callable[[int], Mapping]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from error
    return range(1, len(rows) + 1), rows.__getitem__


READERS = {".jsonl": _json_lines, ".json": _json_array, ".parquet": _parquet}
