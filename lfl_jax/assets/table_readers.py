"""The formats of data files: for each a function from a path to its rows, read at random.

A file ends in .jsonl, .json (an array, or one object a line), .csv or .tsv (with a header), each
also .gz or .zst, or in .parquet or .arrow. Blank lines, byte-order marks and Windows line ends are
no content.
"""

import contextlib
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lfl_jax.assets import line_index
from lfl_jax.assets.compressed import (
    DAMAGED,
    PACKED,
    Budget,
    all_bytes,
    damaged,
    lines,
    open_packed,
    without_bom,
)
from lfl_jax.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet

Row = dict[str, Any]
Numbers = np.ndarray | range  # lines, or rows counted from 1
Rows = tuple[Numbers, Callable[[int], Any]]  # what a reader gives: numbers, and row i
MANY = 100_000  # rows that may all be equal
BATCH = 4096  # rows of a Parquet file that are read together
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # the escape of half a character beyond U+FFFF


def kind(name: str) -> str:
    """The suffix that says how a file is read, without that of its compression."""
    parts = Path(name).suffixes
    inner = parts[-2:-1] if parts[-1:] and parts[-1] in PACKED else parts[-1:]
    return inner[0] if inner else ""


def is_table(name: str) -> bool:
    """Whether a file of this name can be read here."""
    return kind(name) in READERS and not (kind(name) in BINARY and name.endswith(PACKED))


def check_kind(path: Path) -> None:
    """UserError for a file that cannot be read here, with the kinds that can."""
    if not is_table(path.name):
        raise UserError(
            f"{path}: cannot read {kind(path.name) or 'a file without suffix'}; known: {known()}"
        )


def known() -> str:
    """The kinds that can be read here, in words."""
    packable = ", ".join(suffix for suffix in READERS if suffix not in BINARY)
    return f"{', '.join(READERS)} ({packable} also {' or '.join(PACKED)})"


def _json_lines(path: Path) -> Rows:
    data = all_bytes(path)
    numbers, starts, ends = line_index.of_text(data, path)

    def read(i: int) -> Row:
        return parse(data[starts[i] : ends[i]], f"{path}:{numbers[i]}")

    return numbers, read


def stream_json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    """(FILE:LINE, object) of each line, unpacked as it is read: files may exceed the memory."""
    for number, line in lines(path):
        location = f"{path}:{number}"
        yield location, parse(line, location)


def _json(path: Path) -> Rows:
    """An array of objects, or lines of them: both are published as .json."""
    return _json_array(path) if holds_array(path) else _json_lines(path)


def holds_array(path: Path) -> bool:
    """Whether a .json file is one value that goes over several lines, and not an object a line."""
    try:
        with open_packed(path) as file:
            # The beginning decides: the file itself may exceed the memory.
            head = without_bom(file.read(1 << 16), path).lstrip()
    except DAMAGED as error:
        raise damaged(path, error) from error
    return head.startswith(b"[") or not _is_json(head.partition(b"\n")[0])


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return len(line) >= 1 << 16  # a line of which this is the beginning
    return True


def _json_array(path: Path) -> Rows:
    data = without_bom(bytes(all_bytes(path)), path)
    try:
        rows = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: expected an array of objects, or one object a line; found"
            f" {type(rows).__name__}"
        )
    # Searched in the bytes first, since encoding every row again costs as much as parsing.
    for number, row in enumerate(rows if SURROGATE.search(data) else (), 1):
        check_text(row, f"{path}:{number}")
    return range(1, len(rows) + 1), rows.__getitem__


def parse(line: bytes, place: str) -> Row:
    """One JSON object; UserError with its place for anything else."""
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON ({error}); expected one object a line") from error
    if not isinstance(row, dict):
        raise no_object(row, place)
    if SURROGATE.search(line):
        check_text(row, place)
    return row


def no_object(row: object, place: str) -> UserError:
    """The error for a row that is a number, a text or a list."""
    return UserError(f"{place}: expected an object with named fields, found {type(row).__name__}")


def check_text(row: object, place: str) -> None:
    """Raise UserError for text with half of a surrogate pair, which has no UTF-8 and no tokens."""
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("ascii", "backslashreplace").decode()
        raise UserError(
            f"{place}: {half} is half of a character: the text was cut inside an emoji; repair or"
            " remove this row"
        ) from None


def _csv(path: Path) -> Rows:
    rows = csv_rows(path, "\t" if kind(path.name) == ".tsv" else "")
    _, header = next(rows, (0, []))
    numbers, cells = [], []
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{path}:{number}: {len(row)} cells under {len(header)} columns"
                f" ({', '.join(header)})"
            )
        numbers.append(number)
        cells.append(row)
    names = [name.strip() for name in header]
    return np.array(numbers, int), lambda i: dict(zip(names, cells[i], strict=True))


def csv_rows(path: Path, delimiter: str = "") -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a table in text.

    The delimiter is the one of , ; and tab that the first line has most of.
    """
    # the module's default refuses cells of 128 KiB, which documents exceed
    csv.field_size_limit(sys.maxsize)
    try:
        with open_packed(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
            first = text.readline()
            cells = csv.reader(
                _again(first, text), delimiter=delimiter or max(",;\t", key=first.count)
            )
            for row in cells:
                if any(cell.strip() for cell in row):
                    yield cells.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a table in UTF-8 text ({error})") from error
    except DAMAGED as error:
        raise damaged(path, error) from error


def _again(first: str, rest: io.TextIOBase) -> Iterator[str]:
    yield first
    yield from rest


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator["pyarrow.parquet.ParquetFile"]:
    """A Parquet file, memory-mapped; what goes wrong inside while reading it is a UserError."""
    import pyarrow
    import pyarrow.parquet

    try:
        file, size = pyarrow.parquet.ParquetFile(path, memory_map=True), path.stat().st_size
        # Equal rows take next to no bytes: rows that differ are never more than their file's bytes.
        if file.metadata.num_rows > max(MANY, size):
            raise UserError(
                f"{path}: {file.metadata.num_rows} rows in {size} bytes, which unpack to too much"
            )
        yield file
    except (pyarrow.ArrowException, *DAMAGED) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from error


def _parquet(path: Path) -> Rows:
    budget, batches, size = Budget(path), [], path.stat().st_size
    with open_parquet(path) as file:
        # Equal values are stored once: a small file may have more rows than memory holds.
        for batch in file.iter_batches(BATCH):
            budget.spend(batch.nbytes, size)
            batches.append(batch)
    return _batches(batches, str(path))


def _arrow(path: Path) -> Rows:
    """A stream of record batches, as datasets writes them, or an Arrow file."""
    import pyarrow
    import pyarrow.ipc

    try:
        source = pyarrow.memory_map(str(path))
        # The file format's magic bytes; a stream has none.
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        table = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source).read_all()
        # Buffers may be packed inside; those that are not stay in the file.
        Budget(path).spend(table.nbytes, path.stat().st_size)
        # Arrow trusts a file's offsets: damaged ones would end this process.
        table.validate(full=True)
    except (pyarrow.ArrowException, *DAMAGED) as error:
        raise UserError(f"{path}: not a readable Arrow file ({error})") from error
    return _batches(table.to_batches(), str(path))


def python_values(array: Any, place: str) -> list:
    """The values of an Arrow array or batch; UserError where a text in it is not UTF-8."""
    try:
        return array.to_pylist()
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: a text that is not UTF-8 ({error})") from error


def _batches(batches: Sequence[Any], place: str) -> Rows:
    """Rows of Arrow record batches, turned into Python objects when asked for."""
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])

    def read(i: int) -> Row:
        k = int(np.searchsorted(starts, i, side="right")) - 1
        return python_values(batches[k].slice(i - int(starts[k]), 1), place)[0]

    return range(1, int(starts[-1]) + 1), read


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
BINARY = (".parquet", ".arrow")  # packed inside already
