"""Weights of Llama-family models from GGUF files, as float32 parameters of this package's
layout."""

import dataclasses
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np

from lfl_jax.assets import gguf_header
from lfl_jax.assets.gguf_header import TensorInfo
from lfl_jax.errors import UserError
from lfl_jax.models.rope import FactorsRope, LinearRope, Llama3Rope, RopeScaling, YarnRope

# parameter path -> (GGUF name, shape in the file). Matrices are (out, in) there and (in, out) here.
_LAYER = {
    "attn_norm": ("attn_norm.weight", "D"),
    "attn/q": ("attn_q.weight", "HD"),
    "attn/k": ("attn_k.weight", "KD"),
    "attn/v": ("attn_v.weight", "KD"),
    "attn/o": ("attn_output.weight", "DH"),
    "mlp_norm": ("ffn_norm.weight", "D"),
    "mlp/gate": ("ffn_gate.weight", "FD"),
    "mlp/up": ("ffn_up.weight", "FD"),
    "mlp/down": ("ffn_down.weight", "DF"),
}
# What some models add, each under the field of the model config that says so. A model has all of a
# group or none.
_MORE = {
    "qkv_bias": {
        f"qkv_bias/{x}": (f"attn_{x}.bias", letter) for x, letter in zip("qkv", "HKK", strict=True)
    },
    "o_bias": {"o_bias/o": ("attn_output.bias", "D")},
    "mlp_bias": {
        f"mlp_bias/{x}": (f"ffn_{x}.bias", y)
        for x, y in (("gate", "F"), ("up", "F"), ("down", "D"))
    },
    "qk_norm": {f"qk_norm/{x}": (f"attn_{x}_norm.weight", "P") for x in "qk"},
}
# general.architecture -> the leaves whose rows llama.cpp reorders for its rotary positions. Mistral
# is a "llama", too.
_REORDERED = {
    "llama": ("attn/q", "attn/k", "qkv_bias/q", "qkv_bias/k"),
    "qwen2": (),
    "qwen3": (),
}
_FACTORS = "rope_freqs.weight"  # what every rotary frequency is divided by, where the file has it
_PLAIN_FORMATS = ("F32", "F16", "BF16", "F64")
_CHUNK = 1 << 18  # numbers dequantised at a time: the temporaries stay in the cache


def load(
    path: str | os.PathLike, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, Any], "Tensors"]:
    """Open a GGUF file: its metadata (see `gguf_header.read`), and its tensors, float32 in their
    own layout.

    A tensor is read and dequantised when it is looked up, and not kept: memory is what the caller
    keeps. `progress(done, total)` counts bytes of the file. It is called after each tensor, from
    any thread.
    """
    metadata = gguf_header.read(path)
    return metadata, Tensors(metadata["GGUF.path"], metadata["GGUF.tensors"], progress)


class Tensors(Mapping):
    """The tensors of one GGUF file by name, dequantised at each look-up."""

    def __init__(
        self,
        path: str,
        infos: dict[str, TensorInfo],
        progress: Callable[[int, int], None] | None = None,
    ):
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
        # One row a call: the package works on 16 rows at a time, which for short rows is mostly
        # overhead.
        chunk = raw[at // block * block_bytes : (at + step) // block * block_bytes].reshape(1, -1)
        try:
            out[at : at + step] = dequantize(chunk, kind)[0]
        except NotImplementedError:
            raise UserError(f"GGUF number format {info.kind} cannot be dequantised") from None
    return out.reshape(info.shape)


def quantization(metadata: dict[str, Any]) -> str | None:
    """Name the quantised format most weights of the file are in ("Q4_1"), or None if none is
    quantised.

    A base dequantised from few bits is not the model that was trained: reports flag its scores with
    this.
    """
    sizes: Counter[str] = Counter()
    for info in metadata["GGUF.tensors"].values():
        if info.kind not in _PLAIN_FORMATS:
            sizes[info.kind] += math.prod(info.shape)
    return sizes.most_common(1)[0][0] if sizes else None


def model_fields(metadata: dict[str, Any]) -> dict[str, Any]:
    """Read the model's dimensions from the metadata: the fields of a model config, under its names.

    Raises UserError for a Llama relative whose forward pass is not one that we have (experts, other
    positions).
    """
    path, infos = metadata["GGUF.path"], metadata["GGUF.tensors"]
    architecture = gguf_header.field(metadata, "general.architecture", str)
    if architecture not in _REORDERED:
        raise UserError(
            f"{path}: a model of architecture {architecture!r}; supported are"
            f" {', '.join(_REORDERED)}"
        )
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
        raise UserError(
            f"{path}: heads of {fields['head_dim']} dimensions; RoPE needs an even number"
        )
    _refuse_other_forward_passes(metadata, fields["head_dim"])
    if fields["rope_theta"] <= 1:
        raise UserError(
            f"{path}: {architecture}.rope.freq_base is {fields['rope_theta']:g}; expected more than"
            " 1"
        )
    if metadata.get(f"{architecture}.attention.sliding_window"):  # 0 is none
        fields["window"] = _size(metadata, "attention.sliding_window")
    scaling = _scaling(metadata, fields)
    first = {group: next(iter(leaves.values()))[0] for group, leaves in _MORE.items()}
    more = {group: True for group, name in first.items() if f"blk.0.{name}" in infos}
    return fields | more | ({} if scaling is None else {"rope_scaling": scaling})


def _key(metadata: dict[str, Any], key: str) -> str:
    return f"{metadata['general.architecture']}.{key}"


def _size(metadata: dict[str, Any], key: str, default: int | None = None) -> int:
    value = gguf_header.field(metadata, _key(metadata, key), int, default)
    if value < 1:
        raise UserError(
            f"{metadata['GGUF.path']}: metadata {_key(metadata, key)!r} is {value}; expected at"
            " least 1"
        )
    return value


def _number(metadata: dict[str, Any], key: str, default: float | None = None) -> float:
    # A float32 in the file: the shortest decimal that means it, 1e-05 and not
    # 9.999999747378752e-06.
    value = float(str(np.float32(gguf_header.field(metadata, _key(metadata, key), float, default))))
    if not 0 < value < math.inf:
        name = _key(metadata, key)
        raise UserError(
            f"{metadata['GGUF.path']}: metadata {name!r} is {value}; expected a positive number"
        )
    return value


def _refuse_other_forward_passes(metadata: dict[str, Any], head_dim: int) -> None:
    plain = {
        "expert_count": (0,),
        "rope.dimension_count": (head_dim,),
        "attention.value_length": (head_dim,),
    }
    for short, allowed in plain.items():
        key = _key(metadata, short)
        if key in metadata and metadata[key] not in allowed:
            raise UserError(
                f"{metadata['GGUF.path']}: {key} = {metadata[key]!r} is not supported, only"
                f" {allowed[0]!r}"
            )


def _scaling(metadata: dict[str, Any], fields: dict[str, Any]) -> RopeScaling | None:
    """How rotary frequencies are scaled: by the factors in the file's own tensor, or by what its
    metadata say."""
    path, infos = metadata["GGUF.path"], metadata["GGUF.tensors"]
    kind = metadata.get(_key(metadata, "rope.scaling.type"), "none")
    if _FACTORS in infos:
        if infos[_FACTORS].shape != (fields["head_dim"] // 2,) or kind != "none":
            shape = infos[_FACTORS].shape
            raise UserError(
                f"{path}: tensor {_FACTORS!r} of shape {shape} beside rotary scaling {kind!r}"
            )
        return _of_factors(Tensors(path, infos)[_FACTORS], fields)
    if not isinstance(kind, str) or kind not in _SCALINGS:
        raise UserError(
            f"{path}: rotary scaling {kind!r} is not supported, only"
            f" {', '.join(map(repr, _SCALINGS))}"
        )
    # older files
    if kind == "none" and metadata.get(_key(metadata, "rope.scale_linear"), 1.0) != 1.0:
        return LinearRope(_number(metadata, "rope.scale_linear"))
    return _SCALINGS[kind](metadata)


def _yarn(metadata: dict[str, Any]) -> RopeScaling:
    factor = _number(metadata, "rope.scaling.factor")
    original = _size(metadata, "rope.scaling.original_context_length")
    larger = 1.0 + 0.1 * math.log(factor) if factor > 1 else 1.0
    return YarnRope(factor, original, larger * _number(metadata, "rope.scaling.attn_factor", 1.0))


# rope.scaling.type -> what it means
_SCALINGS: dict[str, Callable[[dict[str, Any]], RopeScaling | None]] = {
    "none": lambda metadata: None,
    "linear": lambda metadata: LinearRope(_number(metadata, "rope.scaling.factor")),
    "yarn": _yarn,
}


def _of_factors(factors: np.ndarray, fields: dict[str, Any]) -> RopeScaling | None:
    """Llama 3.1's rule where the factors are its, so that a Hugging Face folder can say so; else as
    they are."""
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise UserError(f"tensor {_FACTORS!r} has factors that are no positive numbers")
    if (factors == 1).all():
        return None
    theta, head_dim = fields["rope_theta"], fields["head_dim"]
    frequency = theta ** (-np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    published = Llama3Rope(float(factors.max()), 1.0, 4.0, 8192)
    with np.errstate(all="ignore"):  # a damaged theta may leave frequencies of 0
        theirs = frequency / np.asarray(published.scale(jnp.asarray(frequency), theta))
    return (
        published
        if np.allclose(theirs, factors, rtol=1e-4)
        else FactorsRope(tuple(map(float, factors)))
    )


# `tensors` maps names to arrays; a hint that said so would have type checkers read tensors from the
# file.
def to_params(metadata: dict[str, Any], tensors: Mapping) -> dict[str, Any]:
    """Arrange the tensors as float32 parameters: matrices (in, out), layers stacked, q and k
    un-permuted.

    They are allocated once and filled by two threads, so the peak of memory is their size and two
    tensors. Raises UserError naming the tensor that is missing, is of another shape, or has no
    place in the model.
    """
    fields, params = model_fields(metadata), {}
    _check_tensors(metadata, fields)

    def write(job: _Job) -> None:
        tensor = tensors[job.name]
        job.destination[...] = unpermute(tensor, job.n_heads) if job.n_heads else tensor

    jobs = _allocate(params, fields, _REORDERED[metadata["general.architecture"]])
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(write, jobs):
            pass
    return params


@dataclasses.dataclass(frozen=True)
class _Job:
    """A tensor of the file, where it goes, and the heads whose rows are brought in order; 0 for
    none."""

    name: str
    destination: np.ndarray
    n_heads: int = 0


def _allocate(params: dict[str, Any], fields: dict[str, Any], rotated: Sequence[str]) -> list[_Job]:
    """Fill `params` with empty arrays, and say which tensor goes into which. rotated: leaves with
    llama.cpp's rows."""
    width = _widths(fields)
    jobs = [
        _Job("token_embd.weight", _place(params, "embed", (width["V"], width["D"]))),
        _Job("output_norm.weight", _place(params, "final_norm", (width["D"],))),
    ]
    if not fields["tied"]:
        jobs.append(_Job("output.weight", _place(params, "head", (width["V"], width["D"]))))
    for leaf, (name, letters) in _leaves(fields).items():
        shape = tuple(width[letter] for letter in reversed(letters))
        stack = _place(params, f"layers/{leaf}", (fields["n_layers"], *shape))
        n_heads = (
            fields["n_heads" if leaf.endswith("q") else "n_kv_heads"] if leaf in rotated else 0
        )
        jobs += [_Job(f"blk.{i}.{name}", layer.T, n_heads) for i, layer in enumerate(stack)]
    return jobs


def unpermute(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Bring the rows of q or k, or a bias, from llama.cpp's interleaved RoPE order to rotate-half
    order."""
    pairs = weight.reshape(n_heads, -1, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _place(params: dict[str, Any], path: str, shape: tuple[int, ...]) -> np.ndarray:
    *parents, leaf = path.split("/")
    for parent in parents:
        params = params.setdefault(parent, {})
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
            raise UserError(
                f"{path}: tensor {name!r} has shape {infos[name].shape}, the metadata say {shape}"
            )
    if n_expected != len(infos) - (_FACTORS in infos):
        known = {name for name, _ in _expected(fields)} | {_FACTORS}
        unknown = next(name for name in infos if name not in known)
        raise UserError(f"{path}: tensor {unknown!r} has no place in a model of this architecture")


def _expected(fields: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = _widths(fields)
    yield "token_embd.weight", (width["V"], width["D"])
    yield "output_norm.weight", (width["D"],)
    if not fields["tied"]:
        yield "output.weight", (width["V"], width["D"])
    for layer in range(fields["n_layers"]):
        for name, letters in _leaves(fields).values():
            yield f"blk.{layer}.{name}", tuple(width[letter] for letter in letters)


def _leaves(fields: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The leaves of a layer of this model: name and shape in the file."""
    more = [leaves for group, leaves in _MORE.items() if fields.get(group)]
    return {leaf: place for leaves in (_LAYER, *more) for leaf, place in leaves.items()}


def _widths(fields: dict[str, Any]) -> dict[str, int]:
    heads, kv_heads = (
        fields["n_heads"] * fields["head_dim"],
        fields["n_kv_heads"] * fields["head_dim"],
    )
    sizes = {
        "V": fields["vocab_size"],
        "D": fields["d_model"],
        "F": fields["d_ff"],
        "P": fields["head_dim"],
    }
    return sizes | {"H": heads, "K": kv_heads}
