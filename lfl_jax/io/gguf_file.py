"""The tensors of a GGUF file by name, dequantised by the gguf package when they are looked up."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float32, UInt8

from lfl_jax.assets import gguf_header
from lfl_jax.assets.gguf_header import TensorInfo
from lfl_jax.errors import UserError

UNQUANTISED = ("F32", "F16", "BF16", "F64")
# Numbers dequantised at a time: the package's temporaries, several times as large, stay in the
# cache.
CHUNK = 1 << 18


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of one GGUF file, float32, read at each look-up and not kept.

    `metadata` is the header as `gguf_header.read` gives it; `shapes` are numpy's, (out, in) for a
    matrix.
    """

    def __init__(self, path: str | os.PathLike):
        """Read the header; UserError for a file that is missing, damaged or of another format."""
        self.metadata = gguf_header.read(path)
        self.path: str = self.metadata["GGUF.path"]
        self._infos: dict[str, TensorInfo] = self.metadata["GGUF.tensors"]
        self.shapes = {name: info.shape for name, info in self._infos.items()}

    def __getitem__(self, name: str) -> Float32[np.ndarray, "..."]:
        info = self._infos[name]
        raw = np.fromfile(self.path, np.uint8, count=info.n_bytes, offset=info.offset)
        if raw.size != info.n_bytes:
            raise UserError(f"{self.path}: the file became shorter while it was being read")
        return _dequantise(raw, info)

    def __contains__(self, name: object) -> bool:
        return name in self._infos  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def quantisation(self) -> str | None:
        """The format ("Q4_1") that most quantised weights are in, or None if none is quantised.

        A base dequantised from few bits is not the model that was trained: reports flag its scores
        with this.
        """
        sizes: Counter[str] = Counter()
        for info in self._infos.values():
            if info.kind not in UNQUANTISED:
                sizes[info.kind] += math.prod(info.shape)
        return sizes.most_common(1)[0][0] if sizes else None


def _dequantise(raw: UInt8[np.ndarray, " bytes"], info: TensorInfo) -> Float32[np.ndarray, "..."]:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType[info.kind]
    if kind is GGMLQuantizationType.F64:
        return raw.view(np.float64).astype(np.float32).reshape(info.shape)
    if kind is GGMLQuantizationType.F32:
        return raw.view(np.float32).reshape(info.shape)

    block, block_bytes = GGML_QUANT_SIZES[kind]
    weights = np.empty(math.prod(info.shape), np.float32)
    step = CHUNK // block * block
    for start in range(0, weights.size, step):
        # One row a call: the package works on 16 rows at a time, which for short rows is mostly
        # overhead.
        begin = start // block * block_bytes
        row = raw[begin : begin + step // block * block_bytes].reshape(1, -1)
        try:
            weights[start : start + step] = dequantize(row, kind)[0]
        except NotImplementedError:
            raise UserError(f"GGUF number format {info.kind} cannot be dequantised") from None
    return weights.reshape(info.shape)
