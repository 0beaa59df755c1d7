"""Files that are complete or absent: atomic writes, JSON, JSON lines, and the hash of a file.

Everything this package writes in one piece goes through `replacing`, whatever writes the bytes.
Records that grow (metrics, evaluated items) are JSON lines: `append_jsonl` and `read_jsonl`.
"""

import contextlib
import csv
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from lfl_jax.errors import MAKE_ROOM, UserError, full


@contextlib.contextmanager
def naming_full_disk(path: str | Path) -> Iterator[None]:
    """Inside, a full disk is a UserError that names this file; the system's error does not."""
    try:
        yield
    except Exception as error:  # safetensors and tensorstore have exceptions of their own
        if full(error) is None:
            raise
        raise UserError(f"cannot write {path}: {full(error)}; {MAKE_ROOM}") from error


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write to, in the same folder; on success it replaces `path` by one rename.

    A reader sees the old file or the new one, whatever ends this process. The folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two processes that write the same file from writing into one another's.
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_full_disk(path):
            yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Inside, no other process of this machine is inside for the same path; it waits its turn.

    The lock is a file beside the path, which stays; the system releases it when the process dies.
    """
    lock_file = Path(f"{path}.lock")
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_partial(folder: str | Path) -> None:
    """Remove what processes that were killed inside of `replacing` left below a folder.

    Only where no other process writes there.
    """
    for partial in Path(folder).rglob(".*.tmp"):
        # By their process's number: a lock that somebody else asks for has another name.
        if partial.suffixes[-2:-1] and partial.suffixes[-2][1:].isdecimal():
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def removed_on_error(path: str | Path) -> Iterator[None]:
    """Inside, a new file or folder is written; when that fails, nothing of it stays."""
    path = Path(path)
    try:
        with naming_full_disk(path):
            yield
    # BaseException: after Ctrl-C nothing stays, either.
    except BaseException:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Replace a text file at once, in UTF-8."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        # Without it a crash of the machine may keep the rename and lose the text.
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, value: object) -> None:
    """Replace a JSON file at once. Strict JSON: ValueError for a float that is not finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json_object(path: Path, hint: str = "") -> dict[str, Any]:
    """The JSON object in a file; UserError for no file (with the hint) and other content."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{hint and f'; {hint}'}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: malformed JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a JSON object")
    return tree


HUGE = 1e100  # above it is no measurement: squares of it are infinite
# What content of another form than expected raises on its way through look-ups and conversions.
MALFORMED = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    OSError,
    csv.Error,
)


@contextlib.contextmanager
def expecting(path: str | Path, what: str) -> Iterator[None]:
    """Inside, a file's content is taken apart: another form than `what` is a UserError.

    For files that anybody may have written or damaged, in place of a check of every field. Only
    what reads the content belongs inside, since mistakes of the program itself would be hidden.
    """
    try:
        yield
    except MALFORMED as error:
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise UserError(f"{path}: expected {what} ({reason})") from error


def number(value: object) -> int | float:
    """A number of a JSON document; ValueError for anything else, true and NaN included."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < HUGE:
        raise ValueError(f"{value!r:.40} is no number")
    return value


def append_jsonl(
    path: str | Path,
    records: Sequence[Mapping[str, Any]],
    *,
    ensure_ascii: bool = True,
    allow_nan: bool = False,
) -> None:
    """Add a line for each record; the lines are with the operating system when this returns.

    Half a line, which a killed process may leave, is removed first. ensure_ascii, allow_nan: as in
    json.dumps.
    """
    lines = [
        json.dumps(record, ensure_ascii=ensure_ascii, allow_nan=allow_nan) for record in records
    ]
    with naming_full_disk(path), Path(path).open("ab+") as file:
        _drop_half_line(file)
        file.write("".join(f"{line}\n" for line in lines).encode())


def drop_half_line(path: str | Path) -> None:
    """Remove what follows the last complete line."""
    with Path(path).open("ab+") as file:
        _drop_half_line(file)


def _drop_half_line(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    # Most files end with a complete line, and then only their last byte is read.
    file.seek(max(size - 1, 0))
    if size and file.read(1) != b"\n":
        file.seek(0)
        file.truncate(_end_of_lines(file.read()))


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file, none without a file.

    Half a last line is left out; any other line that is not JSON is a UserError.
    """
    path = Path(path)
    if not path.exists():
        return []
    data = path.read_bytes()
    records = []
    for number, line in enumerate(data[: _end_of_lines(data)].splitlines(), start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}:{number} is not JSON ({error}); restore or delete the file"
            ) from error
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number} is no JSON object; restore or delete the file")
        records.append(record)
    return records


def _end_of_lines(data: bytes) -> int:
    """Bytes up to the end of the last complete line."""
    return data.rfind(b"\n") + 1


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_files(paths: Sequence[Path]) -> str:
    """SHA-256 of one file; of several, the SHA-256 of their hashes in this order."""
    hashes = [sha256(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
