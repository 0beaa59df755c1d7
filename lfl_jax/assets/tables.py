"""Rows of data files as people publish them: one reader, lenient about form, strict about content.

A file ends in .jsonl, .json (an array, or one object a line), .csv or .tsv (with a header), each also .gz or .zst, or
in .parquet or .arrow. A folder is one that datasets' save_to_disk wrote, or holds such files ("shards"), whose names
or subfolders may say which split they are of. Blank lines, byte-order marks and Windows line ends are no content.
"""

import csv
import functools
import gzip
import hashlib
import io
import json
import mmap
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lfl_jax.assets import fetching, hub_names
from lfl_jax.errors import UserError

Row = dict[str, Any]
Numbers = np.ndarray | range  # lines, or rows counted from 1
Rows = tuple[Numbers, Callable[[int], Any]]  # what a reader gives: numbers, and row i
BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
PACKED = (".gz", ".zst")
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # the escape of half a character beyond U+FFFF
DAMAGED = (OSError, EOFError, zlib.error)  # what a compressed file that is not whole raises
# Names that datasets give their splits, at the head of a file's name or as a folder; ours are the values.
SPLIT_NAMES = {"train": "train", "validation": "dev", "valid": "dev", "val": "dev", "dev": "dev", "test": "test"}


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
        return np.cumsum([0, *(len(shard.numbers) for shard in self.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> Row:
        if i >= len(self):  # ends iteration; readers raise errors of their own
            raise IndexError(i)
        shard, k = self._find(i)
        row = shard.read(k)
        if not isinstance(row, Mapping):  # of an array in JSON
            raise _no_object(row, self.place(i))
        return row

    def place(self, i: int) -> str:
        """Where row i stands, as file:line."""
        shard, k = self._find(i)
        return f"{shard.name}:{shard.numbers[k]}"

    def _find(self, i: int) -> tuple[Shard, int]:
        k = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self.shards[k], i - int(self._starts[k])


def kind(name: str) -> str:
    """The suffix that says how a file is read, without that of its compression."""
    parts = Path(name).suffixes
    inner = parts[-2:-1] if parts[-1:] and parts[-1] in PACKED else parts[-1:]
    return inner[0] if inner else ""


def is_table(name: str) -> bool:
    """Whether a file of this name can be read here."""
    return kind(name) in READERS and not (kind(name) in BINARY and name.endswith(PACKED))


def open_splits(path: Path) -> dict[str, Table]:
    """The tables of a file or folder by split, "train", "dev" and "test"; what names no split is "train"."""
    return {split: read_tables(files, path.name) for split, files in files_by_split(path).items()}


def files_by_split(path: Path) -> dict[str, list[Path]]:
    """The data files of a file or folder by split, in the order of their names.

    A dataset of a hub, hf:ORG/NAME:CONFIG:SPLIT, is fetched where it is not here yet. Raises UserError for a path
    without data, and for a folder that save_to_disk wrote with rows picked from its files.
    """
    if hub_names.is_hub(str(path)):
        return {"train": fetching.local_files(hub_names.dataset(str(path)))}
    if path.is_file():
        _check_kind(path)
        return {"train": [path]}
    if not path.is_dir():
        raise UserError(f"no data file {path}: expected {_known()}, or a folder of them")
    if (path / "dataset_dict.json").is_file():
        return _saved_splits(path)
    if (path / "state.json").is_file():
        return {"train": _saved_files(path)}
    return _shards(path)


def read_table(path: Path) -> Table:
    """All rows of one file, or of a dataset of a hub; JSON lines are parsed on access."""
    if hub_names.is_hub(str(path)):
        return read_tables(files_by_split(path)["train"], path.name)
    if not path.is_file():
        raise UserError(f"no data file {path}: expected an existing file of kind {_known()}")
    _check_kind(path)
    return read_tables([path], path.name)


def read_tables(files: Sequence[Path], name: str) -> Table:
    """The rows of several files as one table; UserError where there is none."""
    shards = tuple(Shard(file.name, *READERS[kind(file.name)](file)) for file in files)
    if not any(len(shard.numbers) for shard in shards):
        raise UserError(f"{files[0] if len(files) == 1 else files[0].parent} is empty: expected at least one example")
    return Table(name, shards, digest(files))


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of a file, or of the hashes of several."""
    hashes = []
    for path in files:
        with path.open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a text file that are not blank, numbered from 1, unpacked as they are read."""
    try:
        with open_packed(path) as file:
            for number, line in enumerate(file, 1):
                text = _without_bom(line, path) if number == 1 else line
                if text.strip():
                    yield number, text
    except DAMAGED as error:
        raise damaged(path, error) from error


def parse(line: bytes, place: str) -> Row:
    """One JSON object; UserError with its place for anything else."""
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON ({error}); expected one object a line") from error
    if not isinstance(row, dict):
        raise _no_object(row, place)
    if SURROGATE.search(line):
        check_text(row, place)
    return row


def _no_object(row: Any, place: str) -> UserError:
    return UserError(f"{place}: expected an object with named fields, found {type(row).__name__}")


def check_text(row: Any, place: str) -> None:
    """Raise UserError for text with half of a surrogate pair, which has no UTF-8 and no tokens."""
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("ascii", "backslashreplace").decode()
        raise UserError(
            f"{place}: {half} is half of a character: the text was cut inside an emoji; repair or remove this row"
        ) from None


def open_packed(path: Path) -> io.BufferedIOBase:
    """A file's bytes, unpacked from .gz or .zst."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        import pyarrow  # which unpacks Zstandard itself

        return io.BufferedReader(pyarrow.CompressedInputStream(str(path), "zstd"))
    return path.open("rb")


def damaged(path: Path, error: Exception) -> UserError:
    """The error for a packed file that cannot be unpacked to its end."""
    if path.suffix not in PACKED:
        return UserError(f"{path}: cannot be read ({error})")
    return UserError(f"{path}: damaged {'gzip' if path.suffix == '.gz' else 'Zstandard'} file ({error})")


def csv_rows(path: Path, delimiter: str = "") -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a table in text; the delimiter is the one of , ; and tab that its first line has most of."""
    csv.field_size_limit(sys.maxsize)  # the module's default refuses cells of 128 KiB, which documents exceed
    try:
        with open_packed(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
            first = text.readline()
            cells = csv.reader(_again(first, text), delimiter=delimiter or max(",;\t", key=first.count))
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


def _known() -> str:
    return f"{', '.join(READERS)} ({', '.join(k for k in READERS if k not in BINARY)} also {' or '.join(PACKED)})"


def _check_kind(path: Path) -> None:
    if not is_table(path.name):
        raise UserError(f"{path}: cannot read {kind(path.name) or 'a file without suffix'}; known: {_known()}")


def _saved_splits(folder: Path) -> dict[str, list[Path]]:
    """The splits of a DatasetDict that save_to_disk wrote."""
    names = _read_json(folder / "dataset_dict.json").get("splits", [])
    splits = _one_each(folder, {name: _split_of(name) for name in names})
    if "train" not in splits:
        raise UserError(f"{folder}: no split train; it has {', '.join(names)}; name the folder of one of them")
    return {split: _saved_files(folder / members[0]) for split, members in splits.items()}


def _saved_files(folder: Path) -> list[Path]:
    """The Arrow files of one Dataset that save_to_disk wrote."""
    state = _read_json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise UserError(f"{folder}: rows were picked from its files; save it again with Dataset.flatten_indices()")
    return [folder / entry["filename"] for entry in state["_data_files"]]


def _read_json(path: Path) -> Row:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _shards(folder: Path) -> dict[str, list[Path]]:
    """The data files below a folder, by the split that a name says; files of unnamed splits where none does."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and is_table(p.name) and not _hidden(p, folder))
    kinds = {kind(file.name) for file in files}
    if not files or len(kinds) > 1:
        found = f"both {' and '.join(sorted(kinds))}" if files else "none"
        raise UserError(f"{folder}: expected data files of one kind, found {found}; known: {_known()}")
    names = {file.relative_to(folder).as_posix(): file for file in files}
    found = {name: _split_of(name) for name in names}
    if not any(found.values()) or "train" not in {split and split.ours for split in found.values()}:
        return {"train": files}
    splits = _one_each(folder, found)
    return {split: [names[name] for name in members] for split, members in splits.items()}


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


@dataclass(frozen=True)
class Split:
    """Which of our splits a name is of, and what it calls it, with the folder that is in."""

    ours: str
    theirs: str


def _split_of(name: str) -> Split | None:
    """The split that a path's last telling name begins with: "data/train-00000-of-00002.parquet", "test_sft"."""
    parts = name.split("/")
    for i in range(len(parts) - 1, -1, -1):
        word = re.match(r"[A-Za-z_]*", parts[i])[0].strip("_")
        ours = SPLIT_NAMES.get(word.partition("_")[0].lower())
        if ours:
            return Split(ours, "/".join([*parts[:i], word]))
    return None


def _one_each(folder: Path, found: Mapping[str, Split | None]) -> dict[str, list[str]]:
    """Names by our split; UserError where two of theirs would be one of ours, or a name tells none."""
    splits: dict[str, list[str]] = {}
    for name, split in found.items():
        if split is None:
            raise UserError(f"{folder}: {name} is of no known split, but others are; name one file or folder of it")
        splits.setdefault(split.ours, []).append(name)
    for ours in splits:
        theirs = sorted({split.theirs for split in found.values() if split and split.ours == ours})
        if len(theirs) > 1:
            raise UserError(f"{folder}: {' and '.join(theirs)} would all be split {ours}; name one of them")
    return splits


def _without_bom(data: bytes, path: Path) -> bytes:
    if data.startswith(UTF16):
        raise UserError(f"{path}: the file is UTF-16; save it as UTF-8")
    return data.removeprefix(BOM)


def _all_bytes(path: Path) -> "bytes | mmap.mmap":
    if path.suffix in PACKED:
        try:
            with open_packed(path) as file:
                return file.read()
        except DAMAGED as error:
            raise damaged(path, error) from error
    with path.open("rb") as file:  # an empty file cannot be mapped
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _json_lines(path: Path) -> Rows:
    data = _all_bytes(path)
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    starts = np.concatenate([[0], ends + 1]).astype(np.int64)
    ends = np.concatenate([ends, [len(data)]]).astype(np.int64)
    starts[0] = len(data[:3]) - len(_without_bom(data[:3], path))
    numbers = np.array([n for n, (a, b) in enumerate(zip(starts, ends, strict=True), 1) if data[a:b].strip()])

    def read(i: int) -> Row:
        number = int(numbers[i])
        return parse(data[starts[number - 1] : ends[number - 1]], f"{path}:{number}")

    return numbers, read


def _json(path: Path) -> Rows:
    """An array of objects, or lines of them: both are published as .json."""
    return _json_array(path) if holds_array(path) else _json_lines(path)


def holds_array(path: Path) -> bool:
    """Whether a .json file is one value that goes over several lines, and not an object a line."""
    try:
        with open_packed(path) as file:
            head = _without_bom(file.read(1 << 16), path).lstrip()
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
    data = _without_bom(bytes(_all_bytes(path)), path)
    try:
        rows = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected an array of objects, or one object a line; found {type(rows).__name__}")
    for number, row in enumerate(rows if SURROGATE.search(data) else (), 1):
        check_text(row, f"{path}:{number}")
    return range(1, len(rows) + 1), rows.__getitem__


def _csv(path: Path) -> Rows:
    rows = csv_rows(path, "\t" if kind(path.name) == ".tsv" else "")
    _, header = next(rows, (0, []))
    numbers, cells = [], []
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}:{number}: {len(row)} cells under {len(header)} columns ({', '.join(header)})")
        numbers.append(number)
        cells.append(row)
    names = [name.strip() for name in header]
    return np.array(numbers, int), lambda i: dict(zip(names, cells[i], strict=True))


def _parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path, memory_map=True).read()
    except (pyarrow.ArrowException, *DAMAGED) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from error
    return _batches(table.to_batches())


def _arrow(path: Path) -> Rows:
    """A stream of record batches, as datasets writes them, or an Arrow file."""
    import pyarrow
    import pyarrow.ipc

    try:
        source = pyarrow.memory_map(str(path))
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        table = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source).read_all()
    except (pyarrow.ArrowException, *DAMAGED) as error:
        raise UserError(f"{path}: not a readable Arrow file ({error})") from error
    return _batches(table.to_batches())


def _batches(batches: Sequence[Any]) -> Rows:
    """Rows of Arrow record batches, turned into Python objects when asked for."""
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])

    def read(i: int) -> Row:
        k = int(np.searchsorted(starts, i, side="right")) - 1
        return batches[k].slice(i - int(starts[k]), 1).to_pylist()[0]

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
