"""Bytes of data files as text holds them: unpacked from .gz or .zst, without a byte-order mark,
line by line."""

import gzip
import io
import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lfl_jax.errors import UserError

if TYPE_CHECKING:
    import pyarrow

BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
PACKED = (".gz", ".zst")
DAMAGED = (OSError, EOFError, zlib.error)  # what a compressed file that is not whole raises


# Text packs 3 to 10 times smaller. What is both larger than FREE and more than RATIO times its file
# was made to fill memory and disk, and not to be read.
FREE = 16 << 20
RATIO = 100


def open_packed(path: Path) -> io.BufferedIOBase:
    """A file's bytes, unpacked from .gz or .zst; reading too many of them is a UserError."""
    packed = path.open("rb")
    if path.suffix not in PACKED:
        return packed
    if path.suffix == ".gz":
        unpacked = gzip.GzipFile(fileobj=packed)
    else:
        import pyarrow  # which unpacks Zstandard itself

        unpacked = pyarrow.CompressedInputStream(packed, "zstd")
    # As much at a time as is free: what was made to fill memory shows at once, and not after hours.
    return io.BufferedReader(_Bounded(path, packed, unpacked), FREE + 1)


class Budget:
    """Counts what is unpacked of a file; UserError when it is beyond every sensible ratio."""

    def __init__(self, path: Path):
        self.path, self.unpacked = path, 0

    def spend(self, n_bytes: int, packed: int) -> None:
        """Add what was unpacked now; packed: bytes of the file that all of it came from."""
        self.unpacked += n_bytes
        if self.unpacked > max(FREE, RATIO * packed):
            raise UserError(
                f"{self.path}: unpacks to more than {RATIO} times its size, {self.unpacked >> 20}"
                " MiB and more; if that is right, unpack it yourself"
            )


class _Bounded(io.RawIOBase):
    """A stream of unpacked bytes that counts them."""

    def __init__(
        self,
        path: Path,
        packed: io.BufferedReader,
        unpacked: "gzip.GzipFile | pyarrow.CompressedInputStream",
    ):
        self._packed, self._unpacked, self._budget = packed, unpacked, Budget(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:
        data = self._unpacked.read(len(buffer))
        self._budget.spend(len(data), self._packed.tell())
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._unpacked.close()
            self._packed.close()
        super().close()


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
