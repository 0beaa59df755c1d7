"""Safetensors in and out: one file, or shards with an index."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lfl_jax.core import files
from lfl_jax.errors import UserError

# What parameters may be held in, and what they are read as.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float32"}
INDEX = ".safetensors.index.json"
# inside the folder: no part of the path is only dots
SHARD = r"(?!(.*/)?\.+/)([\w.-]+/)*[\w.-]+\.safetensors"
FINGERPRINT = "lfl_base_fingerprint"  # in an adapter file's metadata: the base it belongs to


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of safetensors files by name, read at each look-up and not kept.

    `shapes` and `dtypes` say what there is without reading it; `metadata` is the text in the files'
    headers.
    """

    def __init__(
        self,
        files: Iterable[Path],
        ignore: re.Pattern | None = None,
        legal: Mapping[str, str] = DTYPES,
    ):
        """Read the headers.

        UserError for a file that is not there, not safetensors, cut short, or of other dtypes.
        ignore: names of tensors that are as if they were not there, whatever their dtype. legal:
        dtypes there may be, and what they are read as.
        """
        self._ignore, self._legal = ignore, legal
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self.files: dict[str, Path] = {}
        for file in files:
            self._read_header(file)

    def _read_header(self, file: Path) -> None:
        with _open(file) as opened:
            self.metadata |= opened.metadata() or {}
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                if self.ignores(name):
                    continue
                if name in self.files:
                    raise UserError(f"{file}: tensor {name!r} is also in {self.files[name].name}")
                lazy = opened.get_slice(name)
                if lazy.get_dtype() not in self._legal:
                    raise UserError(
                        f"{file}: tensor {name!r} is {lazy.get_dtype()}; expected one of"
                        f" {', '.join(self._legal)}"
                    )
                self.files[name] = file
                self.shapes[name] = tuple(lazy.get_shape())
                self.dtypes[name] = self._legal[lazy.get_dtype()]

    def __getitem__(self, name: str) -> np.ndarray:
        # Opened anew each time: what was mapped for the tensors before is given back.
        with _open(self.files[name]) as opened, np.errstate(over="raise"):
            try:
                return opened.get_tensor(name).astype(self.dtypes[name], copy=False)
            except FloatingPointError:
                raise UserError(
                    f"{self.files[name]}: tensor {name!r} holds numbers too large for float32"
                ) from None

    def ignores(self, name: str) -> bool:
        """Whether a tensor of this name is left out."""
        return self._ignore is not None and self._ignore.fullmatch(name) is not None

    def equal(self, one: str, other: str, rows: int = 4096) -> bool:
        """Whether two matrices hold the same numbers.

        They are read a few rows at a time, up to the first difference.
        """
        shape = self.shapes[one]
        if self.shapes[other] != shape or len(shape) != 2:
            return False
        with _open(self.files[one]) as left, _open(self.files[other]) as right:
            pair = left.get_slice(one), right.get_slice(other)
            for start in range(0, shape[0], rows):
                end = min(start + rows, shape[0])
                if not np.array_equal(*(tensor[start:end] for tensor in pair)):
                    return False
            return True

    def __contains__(self, name: object) -> bool:
        return name in self.files  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def check_base(file: Path, tensors: Tensors, fingerprint: str | None) -> None:
    """UserError when the file was made for another base; one that is not known is accepted."""
    made_for = tensors.metadata.get(FINGERPRINT)
    if None not in (fingerprint, made_for) and fingerprint != made_for:
        raise UserError(
            f"{file}: made for another base (fingerprint {made_for!r:.40}; this one is"
            f" {fingerprint!r})"
        )


def _open(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        return safe_open(file, framework="np")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file}: not a whole safetensors file ({error}); download it again"
        ) from None


def open_folder(folder: Path, stem: str = "model", ignore: re.Pattern | None = None) -> Tensors:
    """The tensors of STEM.safetensors, or of the shards that its index names.

    The shards of STEM.safetensors.index.json lie in the folder or below it. ignore: names of
    tensors to leave out. Raises UserError for a missing shard, for an index that does not fit its
    shards, and for a folder with pickle files only: unpickling runs whatever code the file holds.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}{INDEX}"
    if single.is_file():
        return Tensors([single], ignore)
    if index.is_file():
        return _sharded(folder, index, ignore)
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder}: only pickle files ({pickles[0]}), which can run any code when opened and"
            " are not read; convert them to safetensors"
        )
    raise UserError(f"{folder}: neither {single.name} nor {index.name} is there")


def _sharded(folder: Path, index: Path, ignore: re.Pattern | None) -> Tensors:
    try:
        shard_of = json.loads(index.read_text("utf-8"))["weight_map"]
        shards = sorted(set(shard_of.values()))
        assert all(re.fullmatch(SHARD, shard) for shard in shards)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError):
        raise UserError(
            f"{index}: not an index; expected JSON with weight_map, tensor name to shard file"
        ) from None
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise UserError(
            f"{folder}: shard {missing[0]} is missing ({len(missing)} of {len(shards)} are)"
        )
    tensors = Tensors([folder / shard for shard in shards], ignore)
    shard_of = {name: shard for name, shard in shard_of.items() if not tensors.ignores(name)}
    wrong = [name for name, shard in shard_of.items() if tensors.files.get(name) != folder / shard]
    if wrong or len(shard_of) != len(tensors):
        name = wrong[0] if wrong else next(name for name in tensors if name not in shard_of)
        raise UserError(f"{index}: the index and its shards do not agree about tensor {name!r}")
    return tensors


def save(
    folder: Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    stem: str = "model",
    shard_bytes: int = 5_000_000_000,
    metadata: Mapping[str, str] | None = None,
) -> list[str]:
    """Write named tensors, in order, as one file or as shards with an index; their names.

    A shard has at most `shard_bytes`. A shard is held in memory, no more. Every file appears under
    its name when it is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Shards have their number and their count in their names, so they are renamed at the end.
    parts: list[Path] = []
    part_of: dict[str, int] = {}
    shard: dict[str, np.ndarray] = {}
    size = total = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            parts.append(_write(folder / f".{stem}-{len(parts)}.partial", shard, metadata))
            shard, size = {}, 0
        shard[name], part_of[name] = np.ascontiguousarray(tensor), len(parts)
        size, total = size + tensor.nbytes, total + tensor.nbytes
    parts.append(_write(folder / f".{stem}-{len(parts)}.partial", shard, metadata))

    # An older save may have had another number of shards.
    for old in (
        *folder.glob(f"{stem}-*-of-*.safetensors"),
        folder / f"{stem}{INDEX}",
        folder / f"{stem}.safetensors",
    ):
        old.unlink(missing_ok=True)
    if len(parts) == 1:
        parts[0].rename(folder / f"{stem}.safetensors")
        return [f"{stem}.safetensors"]
    names = [f"{stem}-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    for part, name in zip(parts, names, strict=True):
        part.rename(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: names[i] for name, i in part_of.items()},
    }
    files.write_json(folder / f"{stem}{INDEX}", index)
    return names


def write(
    file: Path, tensors: dict[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one file, which appears when it is whole."""
    with files.replacing(file) as partial:
        _write(partial, tensors, metadata)


def _write(file: Path, tensors: dict[str, np.ndarray], metadata: Mapping[str, str] | None) -> Path:
    from safetensors.numpy import save_file

    save_file(tensors, file, metadata={"format": "pt", **(metadata or {})})
    file.chmod(0o666 & ~_umask())  # the library's own choice is the owner alone
    return file


def _umask() -> int:
    """The process's umask, which can be read only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
