"""The model config that a GGUF file's metadata describe (ggml, docs/gguf.md)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from lfl_jax.assets import gguf_header
from lfl_jax.errors import UserError
from lfl_jax.io.gguf_file import Tensors
from lfl_jax.io.gguf_names import NAMES
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.rope import FactorsRope, LinearRope, Llama3Rope, RopeScaling, YarnRope

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # Mistral is a "llama", too
ROPE_FACTORS = "rope_freqs.weight"  # divides every rotary frequency, where the file has it
# Field of the config -> a parameter that only models with it have. A model has all of a group or
# none.
ADDITIONS = {
    "qkv_bias": "layers/qkv_bias/q",
    "o_bias": "layers/o_bias/o",
    "mlp_bias": "layers/mlp_bias/gate",
    "qk_norm": "layers/qk_norm/q",
}


def architecture(metadata: dict[str, Any]) -> str:
    """general.architecture; UserError for one that we have no forward pass for."""
    name = gguf_header.field(metadata, "general.architecture", str)
    if name not in ARCHITECTURES:
        raise UserError(
            f"{metadata['GGUF.path']}: a model of architecture {name!r}; supported are"
            f" {', '.join(ARCHITECTURES)}"
        )
    return name


class _Fields:
    """The metadata under the architecture's prefix; every value is checked when it is read."""

    def __init__(self, metadata: dict[str, Any]):
        self.metadata, self.path = metadata, metadata["GGUF.path"]
        self.prefix = architecture(metadata)

    def key(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def get(self, name: str, default: object = None) -> object:
        return self.metadata.get(self.key(name), default)

    def size(self, name: str, default: int | None = None) -> int:
        value = gguf_header.field(self.metadata, self.key(name), int, default)
        if value < 1:
            raise self.error(name, f"is {value}; expected at least 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        stored = gguf_header.field(self.metadata, self.key(name), float, default)
        # A float32 in the file: the shortest decimal that means it, 1e-05 and not
        # 9.999999747378752e-06.
        value = float(str(np.float32(stored)))
        if not 0 < value < math.inf:
            raise self.error(name, f"is {value}; expected a positive number")
        return value

    def error(self, name: str, problem: str) -> UserError:
        return UserError(f"{self.path}: metadata {self.key(name)!r} {problem}")


def model_config(tensors: Tensors) -> ModelConfig:
    """The model's dimensions.

    Raises UserError for a Llama relative whose forward pass is not one that we have: experts, or
    other rotary positions.
    """
    fields, embed = _Fields(tensors.metadata), NAMES["embed"]
    if embed not in tensors:
        raise UserError(f"{fields.path}: tensor {embed!r} is missing")
    d_model, n_heads = fields.size("embedding_length"), fields.size("attention.head_count")
    cfg = ModelConfig(
        vocab_size=tensors.shapes[embed][0],
        d_model=d_model,
        n_layers=fields.size("block_count"),
        n_heads=n_heads,
        n_kv_heads=fields.size("attention.head_count_kv", n_heads),
        head_dim=fields.size("attention.key_length", d_model // n_heads),
        d_ff=fields.size("feed_forward_length"),
        rope_theta=fields.number("rope.freq_base", 10000.0),
        norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
        tied=NAMES["head"] not in tensors,
        max_seq_len=fields.size("context_length"),
        window=_window(fields),
        **{group: f"blk.0.{NAMES[path]}" in tensors for group, path in ADDITIONS.items()},
    )
    _refuse_other_forward_passes(fields, cfg)
    return dataclasses.replace(cfg, rope_scaling=_rope_scaling(fields, tensors, cfg))


def _window(fields: _Fields) -> int | None:
    name = "attention.sliding_window"
    return fields.size(name) if fields.get(name) else None  # some files say 0 for none


def _refuse_other_forward_passes(fields: _Fields, cfg: ModelConfig) -> None:
    if cfg.head_dim % 2:
        raise UserError(
            f"{fields.path}: heads of {cfg.head_dim} dimensions; RoPE needs an even number"
        )
    supported = {
        "expert_count": 0,
        "rope.dimension_count": cfg.head_dim,
        "attention.value_length": cfg.head_dim,
    }
    for name, value in supported.items():
        if fields.get(name, value) != value:
            raise UserError(
                f"{fields.path}: {fields.key(name)} = {fields.get(name)!r} is not supported, only"
                f" {value!r}"
            )
    if cfg.rope_theta <= 1:
        raise UserError(
            f"{fields.path}: {fields.key('rope.freq_base')} is {cfg.rope_theta:g}; expected more"
            " than 1"
        )


def _rope_scaling(fields: _Fields, tensors: Tensors, cfg: ModelConfig) -> RopeScaling | None:
    """The scaling of rotary frequencies: by factors in a tensor, or by a rule in the metadata."""
    kind = fields.get("rope.scaling.type", "none")
    if ROPE_FACTORS in tensors:
        shape = tensors.shapes[ROPE_FACTORS]
        if shape != (cfg.head_dim // 2,) or kind != "none":
            raise UserError(
                f"{fields.path}: tensor {ROPE_FACTORS!r} of shape {shape} beside rotary scaling"
                f" {kind!r}"
            )
        return _rule_of_factors(tensors[ROPE_FACTORS], cfg)
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise UserError(
            f"{fields.path}: rotary scaling {kind!r} is not supported, only"
            f" {', '.join(map(repr, SCALINGS))}"
        )
    # older files
    if kind == "none" and fields.get("rope.scale_linear", 1.0) != 1.0:
        return LinearRope(fields.number("rope.scale_linear"))
    return SCALINGS[kind](fields)


def _yarn(fields: _Fields) -> RopeScaling:
    factor = fields.number("rope.scaling.factor")
    original_length = fields.size("rope.scaling.original_context_length")
    # YaRN multiplies cos and sin by 0.1 ln(s) + 1 (arXiv 2309.00071), its attention temperature.
    temperature = 1.0 + 0.1 * math.log(factor) if factor > 1 else 1.0
    attention_factor = temperature * fields.number("rope.scaling.attn_factor", 1.0)
    return YarnRope(factor, original_length, attention_factor)


# rope.scaling.type -> our rule
SCALINGS: dict[str, Callable[[_Fields], RopeScaling | None]] = {
    "none": lambda fields: None,
    "linear": lambda fields: LinearRope(fields.number("rope.scaling.factor")),
    "yarn": _yarn,
}


def _rule_of_factors(factors: Float32[np.ndarray, " J"], cfg: ModelConfig) -> RopeScaling | None:
    """Llama 3.1's rule where the factors are its, which config.json can state; else themselves."""
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise UserError(f"tensor {ROPE_FACTORS!r} has factors that are no positive numbers")
    if (factors == 1).all():
        return None
    exponents = np.arange(0, cfg.head_dim, 2, dtype=np.float32) / cfg.head_dim
    frequencies = cfg.rope_theta**-exponents
    llama3 = Llama3Rope(float(factors.max()), 1.0, 4.0, 8192)
    with np.errstate(all="ignore"):  # a damaged theta may leave frequencies of 0
        scaled = np.asarray(llama3.scale(jnp.asarray(frequencies), cfg.rope_theta))
        is_llama3 = np.allclose(frequencies / scaled, factors, rtol=1e-4)
    return llama3 if is_llama3 else FactorsRope(tuple(map(float, factors)))
