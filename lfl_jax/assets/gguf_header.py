"""The header of a GGUF file: metadata and tensor table (ggml, docs/gguf.md).

The gguf package's own reader makes an array view of each of a vocabulary's 150 000 fields, which
takes 4 to 5 s of a run's start, and fails on a damaged file with whatever numpy raises. This one
takes 0.1 s and checks every length before it reads. Dequantisation is left to the package.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lfl_jax.errors import UserError

# GGUF's number of a type -> struct's code.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9  # the other type numbers of metadata values
_MAX_DIMS = 4
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies in the file, and as what."""

    shape: tuple[int, ...]  # numpy order, (out, in) for a matrix; the file has it reversed
    kind: str  # ggml's name of the number format: F32, F16, Q4_1, ...
    offset: int  # bytes from the start of the file
    n_bytes: int


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Metadata by GGUF keys, plus "GGUF.path" and "GGUF.tensors": {name: TensorInfo}.

    Arrays are lists. Every tensor is known to lie inside the file. Raises UserError for a file that
    is missing, cut short, damaged or of another format.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such GGUF file")
    if os.path.getsize(path) < 4:
        raise UserError(f"{path}: not a GGUF file ({os.path.getsize(path)} bytes)")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(path, data).header()


def field(metadata: dict[str, Any], key: str, kind: type, default: object = None) -> Any:
    """One metadata value, or the default; UserError if missing or of another type."""
    value = metadata.get(key, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        problem = (
            "is missing" if value is None else f"is a {type(value).__name__}, not a {kind.__name__}"
        )
        raise UserError(f"{metadata['GGUF.path']}: metadata {key!r} {problem}")
    return value


def array(metadata: dict[str, Any], key: str, kind: type, length: int | None = None) -> list:
    """One metadata array; UserError if missing, or of other items or another length."""
    values = field(metadata, key, list)
    if length not in (None, len(values)) or not all(isinstance(value, kind) for value in values):
        expected = f"expected {len(values) if length is None else length} of {kind.__name__}"
        raise UserError(
            f"{metadata['GGUF.path']}: metadata {key!r} has {len(values)} items; {expected}"
        )
    return values


class _Reader:
    """A position in the file; every read is checked against its end first."""

    def __init__(self, path: str, data: mmap.mmap):
        self.path, self.data, self.at, self.end = path, data, 0, len(data)

    def header(self) -> dict[str, Any]:
        if self.take(4) != b"GGUF":
            raise UserError(f"{self.path}: not a GGUF file (it does not start with 'GGUF')")
        version = self.scalar("I")
        # Version 1 counts in 32 bits; a big-endian file has its version's bytes reversed.
        if version not in (2, 3):
            raise UserError(
                f"{self.path}: GGUF version {version} is not supported; expected 2 or 3,"
                " little-endian"
            )
        n_tensors, n_fields = self.scalar("Q"), self.scalar("Q")
        metadata: dict[str, Any] = {"GGUF.path": self.path}
        for _ in _count(n_fields):
            key = self.string()
            self.refuse_duplicate(key, metadata)
            metadata[key] = self.value(self.scalar("I"))
        metadata["GGUF.tensors"] = self.tensors(n_tensors, metadata)
        return metadata

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > self.end - self.at:
            raise self.truncated(self.at + n_bytes)
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        return self.texts([self.take(self.scalar("Q"))])[0]

    def texts(self, raw: list[bytes]) -> list[str]:
        try:
            return [text.decode("utf-8") for text in raw]
        except UnicodeDecodeError:
            raise self.damaged("text that is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise self.damaged(f"a metadata value of unknown type {kind}")
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            return self.strings(count)
        if kind not in _SCALARS:
            raise self.damaged(f"an array of type {kind}, which is not supported")
        code = _SCALARS[kind]
        raw = self.take(count * struct.calcsize("<" + code))
        return list(struct.unpack(f"<{count}{code}", raw))

    def strings(self, count: int) -> list[str]:
        # A vocabulary is 100 000 strings, so this loop does not call a method for each.
        length, data, at, raw = struct.Struct("<Q"), self.data, self.at, []
        for _ in _count(count):
            if at + 8 > self.end:
                raise self.truncated(at + 8)
            start = at + 8
            at = start + length.unpack_from(data, at)[0]
            if at > self.end:
                raise self.truncated(at)
            raw.append(data[start:at])
        self.at = at
        return self.texts(raw)

    def tensors(self, count: int, metadata: dict[str, Any]) -> dict[str, TensorInfo]:
        table: dict[str, tuple] = {}
        for _ in _count(count):
            name = self.string()
            self.refuse_duplicate(name, table)
            n_dims = self.scalar("I")
            if not 0 < n_dims <= _MAX_DIMS:
                raise self.damaged(f"tensor {name!r} with {n_dims} dimensions")
            shape = tuple(self.scalar("Q") for _ in range(n_dims))[::-1]
            table[name] = (shape, self.scalar("I"), self.scalar("Q"))
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not (isinstance(alignment, int) and alignment > 0 and alignment & (alignment - 1) == 0):
            raise self.damaged(f"an alignment of {alignment!r}")
        # The data begin at the next multiple of the alignment; offsets count from there.
        start = -(-self.at // alignment) * alignment
        infos = {name: self.info(name, start, *row) for name, row in table.items()}
        self.require_apart(infos, alignment)
        return infos

    def info(
        self, name: str, start: int, shape: tuple[int, ...], kind: int, offset: int
    ) -> TensorInfo:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            kind = GGMLQuantizationType(kind)
        except ValueError:
            raise self.damaged(f"tensor {name!r} in unknown number format {kind}") from None
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block or 0 in shape:
            raise self.damaged(f"tensor {name!r} of shape {shape}, which {kind.name} cannot hold")
        # Formats store blocks along the last axis; Python's integers cannot overflow on a lie.
        n_bytes = block_bytes // block if block == 1 else block_bytes
        for size in (*shape[:-1], shape[-1] // block):
            n_bytes *= size
        if start + offset + n_bytes > self.end:
            raise self.truncated(start + offset + n_bytes)
        return TensorInfo(shape, kind.name, start + offset, n_bytes)

    def require_apart(self, infos: dict[str, TensorInfo], alignment: int) -> None:
        """UserError for tensors that overlap, or do not begin where the format lets them begin.

        Such a file would load without a word, as another model.
        """
        end, before = 0, ""
        for name in sorted(infos, key=lambda name: infos[name].offset):
            info = infos[name]
            if info.offset % alignment:
                raise self.damaged(f"tensor {name!r} at an offset that is not aligned")
            if info.offset < end:
                raise self.damaged(f"tensor {name!r} where tensor {before!r} lies")
            end, before = info.offset + info.n_bytes, name

    def refuse_duplicate(self, name: str, seen: dict) -> None:
        if name in seen:
            raise self.damaged(f"{name!r} twice")

    def truncated(self, needed: int) -> UserError:
        return UserError(
            f"{self.path}: truncated or damaged GGUF file: {self.end} bytes, its header asks for"
            f" {needed}.\n"
            "Delete it and download it again."
        )

    def damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: damaged or unsupported GGUF file: it has {what}.")


def _count(n: int) -> Iterator[int]:
    # range() cannot iterate as far as a damaged 64-bit field may say; the file ends long before.
    return iter(range(min(n, 2**62)))
