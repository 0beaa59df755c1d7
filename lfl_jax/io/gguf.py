"""Weights of Llama-family models from GGUF files, as float32 parameters of this package's layout."""

import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lfl_jax.errors import UserError
from lfl_jax.text import gguf_header
from lfl_jax.text.gguf_header import TensorInfo

# parameter path -> (GGUF name, shape in the file). Matrices are (out, in) there and (in, out) here.
_LAYER = {
    "attn_norm": ("attn_norm", "D"),
    "attn/q": ("attn_q", "HD"),
    "attn/k": ("attn_k", "KD"),
    "attn/v": ("attn_v", "KD"),
    "attn/o": ("attn_output", "DH"),
    "mlp_norm": ("ffn_norm", "D"),
    "mlp/gate": ("ffn_gate", "FD"),
    "mlp/up": ("ffn_up", "FD"),
    "mlp/down": ("ffn_down", "DF"),
}
_PLAIN_FORMATS = ("F32", "F16", "BF16", "F64")
_CHUNK = 1 << 18  # numbers dequantised at a time: the temporaries stay in the cache


def load(
    path: str | os.PathLike, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, Any], "Tensors"]:
    """Open a GGUF file: its metadata (see `gguf_header.read`), and its tensors, float32 in their own layout.

    A tensor is read and dequantised when it is looked up, and not kept: memory is what the caller keeps.
    `progress(done, total)` counts bytes of the file. It is called after each tensor, from any thread.
    """
    metadata = gguf_header.read(path)
    return metadata, Tensors(metadata["GGUF.path"], metadata["GGUF.tensors"], progress)


class Tensors(Mapping):
    """The tensors of one GGUF file by name, dequantised at each look-up."""

    def __init__(self, path: str, infos: dict[str, TensorInfo], progress: Callable[[int, int], None] | None = None):
        self._path, self._infos, self._progress = path, infos, progress
        self._done, self._total = 0, sum(info.n_bytes for info in infos.values())
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._infos[name]
        raw = np.fromfile(self._path, np.uint8, count=info.n_bytes, offset=info.offset)
        if raw.size != info.n_bytes:
            raise UserError(f"{self._path}: the file became shorter while it was being read")
        tensor = _dequantise(raw, info)
        if self._progress is not None:
            with self._lock:
                self._done += info.n_bytes
                self._progress(self._done, self._total)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)


def _dequantise(raw: np.ndarray, info: TensorInfo) -> np.ndarray:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType[info.kind]
    if kind is GGMLQuantizationType.F64:
        return raw.view(np.float64).astype(np.float32).reshape(info.shape)
    if kind is GGMLQuantizationType.F32:
        return raw.view(np.float32).reshape(info.shape)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    out = np.empty(math.prod(info.shape), np.float32)
    step = _CHUNK // block * block
    for at in range(0, out.size, step):
        # One row a call: the package works on 16 rows at a time, which for short rows is mostly overhead.
        chunk = raw[at // block * block_bytes : (at + step) // block * block_bytes].reshape(1, -1)
        try:
            out[at : at + step] = dequantize(chunk, kind)[0]
        except NotImplementedError:
            raise UserError(f"GGUF number format {info.kind} cannot be dequantised") from None
    return out.reshape(info.shape)


def quantization(metadata: dict[str, Any]) -> str | None:
    """Name the quantised format most weights of the file are in ("Q4_1"), or None if none is quantised.

    A base dequantised from few bits is not the model that was trained: reports flag its scores with this.
    """
    sizes: Counter[str] = Counter()
    for info in metadata["GGUF.tensors"].values():
        if info.kind not in _PLAIN_FORMATS:
            sizes[info.kind] += math.prod(info.shape)
    return sizes.most_common(1)[0][0] if sizes else None


def model_fields(metadata: dict[str, Any]) -> dict[str, Any]:
    """Read the model's dimensions from the metadata: the fields of a model config, under its names.

    Raises UserError for a Llama relative whose forward pass is not the plain one (experts, scaled RoPE).
    """
    path, infos = metadata["GGUF.path"], metadata["GGUF.tensors"]
    architecture = gguf_header.field(metadata, "general.architecture", str)
    if architecture != "llama":
        raise UserError(f"{path}: a model of architecture {architecture!r}; only 'llama' is supported")
    if "token_embd.weight" not in infos:
        raise UserError(f"{path}: tensor 'token_embd.weight' is missing")
    d_model, n_heads = _size(metadata, "embedding_length"), _size(metadata, "attention.head_count")
    fields = {
        "vocab_size": infos["token_embd.weight"].shape[0],
        "d_model": d_model,
        "n_layers": _size(metadata, "block_count"),
        "n_heads": n_heads,
        "n_kv_heads": _size(metadata, "attention.head_count_kv", n_heads),
        "head_dim": _size(metadata, "attention.key_length", d_model // n_heads),
        "d_ff": _size(metadata, "feed_forward_length"),
        "rope_theta": _number(metadata, "rope.freq_base", 10000.0),
        "norm_eps": _number(metadata, "attention.layer_norm_rms_epsilon"),
        "tied": "output.weight" not in infos,
        "max_seq_len": _size(metadata, "context_length"),
    }
    if fields["head_dim"] % 2:
        raise UserError(f"{path}: heads of {fields['head_dim']} dimensions; RoPE needs an even number")
    _refuse_other_forward_passes(metadata, fields["head_dim"])
    return fields


def _size(metadata: dict[str, Any], key: str, default: int | None = None) -> int:
    value = gguf_header.field(metadata, f"llama.{key}", int, default)
    if value < 1:
        raise UserError(f"{metadata['GGUF.path']}: metadata 'llama.{key}' is {value}; expected at least 1")
    return value


def _number(metadata: dict[str, Any], key: str, default: float | None = None) -> float:
    # A float32 in the file: the shortest decimal that means it, 1e-05 and not 9.999999747378752e-06.
    return float(str(np.float32(gguf_header.field(metadata, f"llama.{key}", float, default))))


def _refuse_other_forward_passes(metadata: dict[str, Any], head_dim: int) -> None:
    plain = {
        "llama.expert_count": (0,),
        "llama.rope.scaling.type": ("none",),
        "llama.rope.scale_linear": (1.0,),
        "llama.rope.dimension_count": (head_dim,),
        "llama.attention.value_length": (head_dim,),
    }
    for key, allowed in plain.items():
        if key in metadata and metadata[key] not in allowed:
            raise UserError(f"{metadata['GGUF.path']}: {key} = {metadata[key]!r} is not supported, only {allowed[0]!r}")


# `tensors` maps names to arrays; a hint that said so would have type checkers read tensors from the file.
def to_params(metadata: dict[str, Any], tensors: Mapping) -> dict[str, Any]:
    """Arrange the tensors as float32 parameters: matrices (in, out), layers stacked, q and k un-permuted.

    They are allocated once and filled by two threads, so the peak of memory is their size and two tensors.
    Raises UserError naming the tensor that is missing, is of another shape, or has no place in the model.
    """
    fields = model_fields(metadata)
    _check_tensors(metadata, fields)
    width = _widths(fields)
    params: dict[str, Any] = {"layers": {"attn": {}, "mlp": {}}}
    jobs = [
        ("token_embd.weight", _place(params, "embed", (width["V"], width["D"])), 0),
        ("output_norm.weight", _place(params, "final_norm", (width["D"],)), 0),
    ]
    if not fields["tied"]:
        jobs.append(("output.weight", _place(params, "head", (width["V"], width["D"])), 0))
    rotated = {"attn/q": fields["n_heads"], "attn/k": fields["n_kv_heads"]}
    for leaf, (name, letters) in _LAYER.items():
        shape = tuple(width[letter] for letter in reversed(letters))
        stack = _place(params, f"layers/{leaf}", (fields["n_layers"], *shape))
        n_heads = rotated.get(leaf, 0)
        jobs += [(f"blk.{i}.{name}.weight", stack[i].T, n_heads) for i in range(fields["n_layers"])]

    def write(job: tuple[str, np.ndarray, int]) -> None:
        name, destination, n_heads = job
        tensor = tensors[name]
        destination[...] = unpermute(tensor, n_heads) if n_heads else tensor

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(write, jobs):
            pass
    return params


def unpermute(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Bring the rows of a q or k projection from llama.cpp's interleaved RoPE order to rotate-half order."""
    pairs = weight.reshape(n_heads, -1, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _place(params: dict[str, Any], path: str, shape: tuple[int, ...]) -> np.ndarray:
    *parents, leaf = path.split("/")
    for parent in parents:
        params = params[parent]
    params[leaf] = np.empty(shape, np.float32)
    return params[leaf]


def _check_tensors(metadata: dict[str, Any], fields: dict[str, Any]) -> None:
    path, infos = metadata["GGUF.path"], metadata["GGUF.tensors"]
    n_expected = 0
    for name, shape in _expected(fields):
        n_expected += 1
        if name not in infos:
            raise UserError(f"{path}: tensor {name!r} is missing")
        if infos[name].shape != shape:
            raise UserError(f"{path}: tensor {name!r} has shape {infos[name].shape}, the metadata say {shape}")
    if n_expected != len(infos):
        known = {name for name, _ in _expected(fields)}
        unknown = next(name for name in infos if name not in known)
        raise UserError(f"{path}: tensor {unknown!r} has no place in a plain Llama model (bias or scaled RoPE?)")


def _expected(fields: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = _widths(fields)
    yield "token_embd.weight", (width["V"], width["D"])
    yield "output_norm.weight", (width["D"],)
    if not fields["tied"]:
        yield "output.weight", (width["V"], width["D"])
    for layer in range(fields["n_layers"]):
        for name, letters in _LAYER.values():
            yield f"blk.{layer}.{name}.weight", tuple(width[letter] for letter in letters)


def _widths(fields: dict[str, Any]) -> dict[str, int]:
    heads, kv_heads = fields["n_heads"] * fields["head_dim"], fields["n_kv_heads"] * fields["head_dim"]
    return {"V": fields["vocab_size"], "D": fields["d_model"], "F": fields["d_ff"], "H": heads, "K": kv_heads}
