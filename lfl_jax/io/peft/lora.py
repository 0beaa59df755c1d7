"""LoRA, rank-stabilised LoRA and DoRA as PEFT stores them, read.

Tensors are lora_A (R, I), lora_B (O, R) and lora_magnitude_vector (O,); `lora_export` writes them.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lfl_jax.adapters.adapter_tree import is_layer, layers_of
from lfl_jax.adapters.build import bind
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.lora import LoRA
from lfl_jax.core.types import AdapterTree, Params
from lfl_jax.errors import UserError
from lfl_jax.io.peft.fields import CHOICE, Fields, show
from lfl_jax.io.peft.lora_export import export
from lfl_jax.io.peft.modules import EMBEDDINGS, key_of
from lfl_jax.io.peft.stacks import Adapted, Read, Shapes, layer_tree, zeros

__all__ = ["build", "check", "default_targets", "describe", "export", "shapes"]

T = TypeVar("T")

# Initialisations that leave the base as it is, and those that PEFT can convert to such.
PLAIN_INITS = ("true", "false", "gaussian", "eva", "orthogonal", "mica")
CONVERTIBLE_INITS = ("pissa", "olora", "corda", "lora_ga")
READ = CHOICE | {
    "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "exclude_modules",
    "layers_to_transform", "layers_pattern", "ensure_weight_tying", "init_lora_weights",
}  # fmt: skip
# What only training used, and details of fields that are refused when they are in use.
IGNORED = {
    "lora_dropout", "megatron_core", "qalora_group_size", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config",
}  # fmt: skip
BIAS_OF_ADAPTED = "lora_only"


@dataclasses.dataclass(frozen=True)
class _Size:
    """A module's rank, and its scale: alpha / r, or alpha / sqrt(r) with use_rslora."""

    rank: int
    scale: float


def default_targets(params: Params) -> list[str]:
    """PEFT 0.21's for llama, mistral, qwen2 and qwen3."""
    return ["q_proj", "v_proj"]


def check(adapted: Adapted) -> None:
    """UserError for an initialisation that changed the base."""
    fields = adapted.fields
    expected = "true, false or the name of an initialisation"
    init = fields.get("init_lora_weights", True, lambda x: isinstance(x, bool | str), expected)
    init = str(init).lower()
    if init.startswith(CONVERTIBLE_INITS):
        raise UserError(
            f"{fields.file}: init_lora_weights={show(init)} changed the base that the adapter"
            " belongs to; PEFT's"
            " save_pretrained(path_initial_model_for_weight_conversion=...) writes a plain LoRA"
        )
    if init not in PLAIN_INITS:
        raise UserError(
            f"{fields.file}: init_lora_weights={show(init)} is not known to keep the base (loftq"
            f" replaces it), and PEFT cannot convert it; expected one of {', '.join(PLAIN_INITS)}"
        )


def shapes(adapted: Adapted) -> Shapes:
    """The tensors that the config names."""
    expected, is_dora = {}, adapted.fields.flag("use_dora")
    for name, size in _sizes(adapted.fields, adapted.names).items():
        fan_out, fan_in = adapted.modules[name].shape
        expected[key_of(name, "lora_A.weight")] = (size.rank, fan_in)
        expected[key_of(name, "lora_B.weight")] = (fan_out, size.rank)
        if is_dora:
            expected[key_of(name, "lora_magnitude_vector")] = (fan_out,)
    return expected


def build(adapted: Adapted, read: Read, params: Params) -> AdapterTree:
    """The adapter, bound to the parameters; magnitudes are the folder's where it has them."""
    is_dora, rows = adapted.fields.flag("use_dora"), adapted.rows()
    sizes = _sizes(adapted.fields, adapted.names)

    def stack(path: str) -> LoRA | DoRA | None:
        if path not in rows:
            return None
        part, weight = path.split("/")
        return _stack(read, rows[path], sizes, params["layers"][part][weight].shape, is_dora)

    # `bind` computes every magnitude from the base, as for a fresh DoRA: right where the stack's
    # layer has no adapter, and to be replaced where it has one.
    def with_magnitude(layer: Kind | None, bound: Kind | None) -> Kind | None:
        if not isinstance(layer, DoRA):
            return bound
        return bound.replace(m=jnp.where(layer.gain > 0, layer.m, bound.m))

    layers = layer_tree(stack)
    return jax.tree.map(with_magnitude, layers, bind(layers, params), is_leaf=is_layer)


def _stack(
    read: Read,
    rows: dict[int, str],
    sizes: dict[str, _Size],
    weight_shape: tuple[int, int, int],
    is_dora: bool,
) -> LoRA | DoRA:
    """One stacked weight's layer, with ranks padded to the largest."""
    layers, fan_in, fan_out = weight_shape
    width = max(sizes[name].rank for name in rows.values())
    leaves = {
        "a": zeros(layers, fan_in, width),
        "b": zeros(layers, width, fan_out),
        "scale": zeros(layers, width),
    }
    if is_dora:
        leaves |= {"m": zeros(layers, fan_out), "gain": zeros(layers, 1)}

    for i, name in rows.items():
        rank = sizes[name].rank
        leaves["a"][i, :, :rank] = read(key_of(name, "lora_A.weight")).T
        leaves["b"][i, :rank] = read(key_of(name, "lora_B.weight")).T
        leaves["scale"][i, :rank] = sizes[name].scale
        if is_dora:
            leaves["m"][i] = read(key_of(name, "lora_magnitude_vector"))
            leaves["gain"][i] = 1
    arrays = jax.tree.map(jnp.asarray, leaves)
    return DoRA(**arrays, w2=None) if is_dora else LoRA(**arrays)


def embedding_shapes(adapted: Adapted) -> Shapes:
    """The tensors of LoRA on the embedding and the head; UserError for DoRA or tied LoRA."""
    fields = adapted.fields
    for flag in ("use_dora", "ensure_weight_tying"):
        if adapted.names and fields.flag(flag):
            module = adapted.names[0].split(".")[-1]
            raise UserError(
                f"{fields.file}: {flag} with an adapter on {module} is not supported; exclude"
                f" {module}"
            )
    expected: Shapes = {}
    for name, size in _sizes(fields, adapted.names).items():
        vocab, width = adapted.modules[name].shape
        # An embedding's input is the vocabulary, a head's the width.
        fan_in, fan_out = (vocab, width) if name == EMBEDDINGS[0] else (width, vocab)
        a, b = _embedding_keys(name)
        expected |= {a: (size.rank, fan_in), b: (fan_out, size.rank)}
    return expected


def embedding_delta(fields: Fields, read: Read, name: str) -> Float[np.ndarray, "V D"]:
    """dW of LoRA on the embedding or the head, rows of the vocabulary."""
    a, b = map(read, _embedding_keys(name))
    delta = np.float32(_sizes(fields, [name])[name].scale) * (b @ a)
    return delta.T if name == EMBEDDINGS[0] else delta


def _embedding_keys(name: str) -> tuple[str, str]:
    if name == EMBEDDINGS[0]:
        return key_of(name, "lora_embedding_A"), key_of(name, "lora_embedding_B")
    return key_of(name, "lora_A.weight"), key_of(name, "lora_B.weight")


def describe(adapter: AdapterTree) -> str:
    """The ranks, for a line about what was loaded."""
    ranks: set[int] = set()
    for layer in layers_of(adapter):
        ranks |= set(np.sum(np.asarray(layer.scale) != 0, axis=1).tolist())
    ranks -= {0}
    smallest, largest = min(ranks, default=0), max(ranks, default=0)
    return f"rank {largest}" if len(ranks) == 1 else f"rank {smallest} to {largest}"


def _sizes(fields: Fields, names: list[str]) -> dict[str, _Size]:
    """{module: its rank and scale}."""
    ranks = fields.pattern("rank_pattern", _is_rank, "an object of regex to positive integer")
    alphas = fields.pattern("alpha_pattern", _is_number, "an object of regex to number")
    r = fields.get("r", 8, _is_rank, "a positive integer")
    default_alpha = fields.get("lora_alpha", 8, _is_number, "a number")
    is_rank_stabilised = fields.flag("use_rslora")  # arXiv 2312.03732
    sizes: dict[str, _Size] = {}
    for name in names:
        rank, alpha = _first(ranks, name, r), _first(alphas, name, default_alpha)
        sizes[name] = _Size(rank, alpha / (math.sqrt(rank) if is_rank_stabilised else rank))
    return sizes


def _first(patterns: Sequence[tuple[re.Pattern, T]], name: str, default: T) -> T:
    return next((value for pattern, value in patterns if pattern.match(name)), default)


def _is_rank(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30
