"""Bytes of data files as text holds them: unpacked from .gz or .zst, without a byte-order mark,
line by line."""

import gzip
import io
import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path

from lfl_jax.errors import UserError

BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
PACKED = (".gz", ".zst")
DAMAGED = (OSError, EOFError, zlib.error)  # what a compressed file that is not whole raises


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
    return UserError(
        f"{path}: damaged {'gzip' if path.suffix == '.gz' else 'Zstandard'} file ({error})"
    )


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a text file that are not blank, numbered from 1, unpacked as they are read."""
    try:
        with open_packed(path) as file:
            for number, line in enumerate(file, 1):
                text = without_bom(line, path) if number == 1 else line
                if text.strip():
                    yield number, text
    except DAMAGED as error:
        raise damaged(path, error) from error


def all_bytes(path: Path) -> "bytes | mmap.mmap":
    """A file's content, mapped where it is not packed."""
    if path.suffix in PACKED:
        try:
            with open_packed(path) as file:
                return file.read()
        except DAMAGED as error:
            raise damaged(path, error) from error
    with path.open("rb") as file:  # an empty file cannot be mapped
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def without_bom(data: bytes, path: Path) -> bytes:
    """The beginning of a file in UTF-8; UserError for UTF-16."""
    if data.startswith(UTF16):
        raise UserError(f"{path}: the file is UTF-16; save it as UTF-8")
    return data.removeprefix(BOM)
