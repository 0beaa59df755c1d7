"""LoRA, rank-stabilised LoRA and DoRA as PEFT stores them: lora_A (R, I), lora_B (O, R),
lora_magnitude_vector (O,)."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lfl_jax.adapters.adapter_tree import is_layer
from lfl_jax.adapters.build import bind
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import Mix, members
from lfl_jax.adapters.truncate import low_rank_factors
from lfl_jax.errors import UserError
from lfl_jax.io.peft.fields import CHOICE, Fields, show
from lfl_jax.io.peft.places import EMBEDDINGS, Place, key_of
from lfl_jax.io.peft.stacks import Read, layer_at, layer_tree, rows_of

PLAIN_INITS = ("true", "false", "gaussian", "eva", "orthogonal", "mica")  # the base stays as it was
CONVERTIBLE_INITS = ("pissa", "olora", "corda", "lora_ga")
READ = CHOICE | {
    "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "exclude_modules",
    "layers_to_transform", "layers_pattern", "ensure_weight_tying", "init_lora_weights",
}  # fmt: skip
# What only training used, and details of fields that are refused when they are in use.
IGNORED = {
    "lora_dropout", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config",
}  # fmt: skip
BIAS_OF_ADAPTED = "lora_only"


def default_targets(params: dict) -> list[str]:
    """PEFT 0.21's for llama, mistral, qwen2 and qwen3."""
    return ["q_proj", "v_proj"]


def check(fields: Fields, places: dict[str, Place], names: list[str]) -> None:
    """UserError for an initialisation that changed the base."""
    expected = "true, false or the name of an initialisation"
    start = str(
        fields.get("init_lora_weights", True, lambda x: isinstance(x, bool | str), expected)
    ).lower()
    if start.startswith(CONVERTIBLE_INITS):
        raise UserError(
            f"{fields.file}: init_lora_weights={show(start)} changed the base that the adapter"
            " belongs to; PEFT's"
            " save_pretrained(path_initial_model_for_weight_conversion=...) writes a plain LoRA"
        )
    if start not in PLAIN_INITS:
        raise UserError(
            f"{fields.file}: init_lora_weights={show(start)} is not known to keep the base (loftq"
            " replaces it),"
            f" and PEFT cannot convert it; expected one of {', '.join(PLAIN_INITS)}"
        )


def shapes(
    fields: Fields, places: dict[str, Place], names: list[str]
) -> dict[str, tuple[int, ...]]:
    """{key: shape in PyTorch's order} of the tensors that the config asks for."""
    found, dora = {}, fields.flag("use_dora")
    for name, (rank, _) in _ranks(fields, names).items():
        fan_out, fan_in = places[name].shape
        found |= {
            key_of(name, "lora_A.weight"): (rank, fan_in),
            key_of(name, "lora_B.weight"): (fan_out, rank),
        }
        found |= {key_of(name, "lora_magnitude_vector"): (fan_out,)} if dora else {}
    return found


def build(
    fields: Fields, read: Read, names: list[str], places: dict[str, Place], params: dict
) -> dict:
    """The adapter, bound to the parameters; a magnitude is the folder's where a module is
    adapted."""
    ranks, dora = _ranks(fields, names), fields.flag("use_dora")
    rows = rows_of(names, places)
    built = layer_tree(
        lambda path: _stack(read, rows[path], ranks, params, path, dora) if path in rows else None
    )

    def keep_m(read: Any, bound: Any) -> Any:
        return (
            bound.replace(m=jnp.where(read.gain > 0, read.m, bound.m))
            if isinstance(read, DoRA)
            else bound
        )

    return jax.tree.map(keep_m, built, bind(built, params), is_leaf=is_layer)


def embedding_shapes(
    fields: Fields, places: dict[str, Place], names: list[str]
) -> dict[str, tuple[int, ...]]:
    """{key: shape} of LoRA on the embedding and the head. UserError for their DoRA, and for one
    that ties them."""
    for flag in ("use_dora", "ensure_weight_tying"):
        if names and fields.flag(flag):
            last = names[0].split(".")[-1]
            raise UserError(
                f"{fields.file}: {flag} with an adapter on {last} is not supported; exclude {last}"
            )
    found: dict[str, tuple[int, ...]] = {}
    for name, (rank, _) in _ranks(fields, names).items():
        (v, d), (a, b) = places[name].shape, _embedding_keys(name)
        # An embedding's input is the vocabulary, a head's the width.
        found |= (
            {a: (rank, v), b: (d, rank)} if name == EMBEDDINGS[0] else {a: (rank, d), b: (v, rank)}
        )
    return found


def embedding_delta(fields: Fields, read: Read, name: str) -> Float[np.ndarray, "V D"]:
    """dW of LoRA on the embedding or the head, rows of the vocabulary."""
    _, scale = _ranks(fields, [name])[name]
    a, b = map(read, _embedding_keys(name))
    change = np.float32(scale) * (b @ a)
    return change.T if name == EMBEDDINGS[0] else change


def _embedding_keys(name: str) -> tuple[str, str]:
    ends = (
        ("lora_embedding_A", "lora_embedding_B")
        if name == EMBEDDINGS[0]
        else ("lora_A.weight", "lora_B.weight")
    )
    return key_of(name, ends[0]), key_of(name, ends[1])


def describe(adapter: dict) -> str:
    """The ranks, for a line about what was loaded."""
    layers = [x for x in jax.tree.leaves(adapter["layers"], is_leaf=is_layer) if x is not None]
    ranks = {int(r) for x in layers for r in np.sum(np.asarray(x.scale) != 0, axis=1) if r}
    return (
        f"rank {max(ranks)}"
        if len(ranks) == 1
        else f"rank {min(ranks, default=0)} to {max(ranks, default=0)}"
    )


def _ranks(fields: Fields, names: list[str]) -> dict[str, tuple[int, float]]:
    """(rank, scale) of every adapted module."""
    ranks = fields.pattern("rank_pattern", _is_rank, "an object of regex to positive integer")
    alphas = fields.pattern("alpha_pattern", _is_number, "an object of regex to number")
    r = fields.get("r", 8, _is_rank, "a positive integer")
    alpha = fields.get("lora_alpha", 8, _is_number, "a number")
    root, found = fields.flag("use_rslora"), {}
    for name in names:
        rank = _first(ranks, name, r)
        found[name] = rank, _first(alphas, name, alpha) / (math.sqrt(rank) if root else rank)
    return found


def _first(patterns: list[tuple[re.Pattern, Any]], name: str, default: Any) -> Any:
    return next((value for pattern, value in patterns if pattern.match(name)), default)


def _is_rank(x: Any) -> bool:
    return type(x) is int and 0 < x < 1 << 31


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) < 1e30


def _stack(
    read: Read, rows: dict[int, str], ranks: dict, params: dict, path: str, dora: bool
) -> Any:
    """One stacked weight's layer, ranks padded to the largest; DoRA's m and w2 are left for
    `bind`."""
    layers, fan_in, fan_out = params["layers"][path.split("/")[0]][path.split("/")[1]].shape
    width = max(ranks[name][0] for name in rows.values())
    a, b = (
        np.zeros((layers, fan_in, width), np.float32),
        np.zeros((layers, width, fan_out), np.float32),
    )
    scale, m, gain = (np.zeros((layers, n), np.float32) for n in (width, fan_out, 1))
    for i, name in rows.items():
        rank, factor = ranks[name]
        a[i, :, :rank] = read(key_of(name, "lora_A.weight")).T
        b[i, :rank] = read(key_of(name, "lora_B.weight")).T
        scale[i, :rank], gain[i] = factor, 1
        if dora:
            m[i] = read(key_of(name, "lora_magnitude_vector"))
    lora = LoRA(jnp.asarray(a), jnp.asarray(b), jnp.asarray(scale))
    return (
        DoRA(lora.a, lora.b, lora.scale, jnp.asarray(m), jnp.asarray(gain), None) if dora else lora
    )


# Writing


@dataclasses.dataclass(frozen=True)
class _Module:
    """A module as PEFT stores it, weights still (in, out): W' = W + scale A B, or DoRA's with a
    magnitude m."""

    a: np.ndarray
    b: np.ndarray
    scale: float
    m: np.ndarray | None


def export(
    adapter: dict, places: dict[str, Place], names: list[str]
) -> tuple[dict, dict[str, dict], list[str]]:
    """(config fields, {module: {leaf: tensor}}, the adapted modules). UserError for what PEFT has
    no form for."""
    modules = {name: x for name in names if (x := _export(adapter, name, places[name])) is not None}
    if len({x.m is None for x in modules.values()}) > 1:
        raise UserError(_no_counterpart("LoRA beside DoRA in one adapter"))
    return _config(modules), {name: dict(_tensors(x)) for name, x in modules.items()}, list(modules)


def _no_counterpart(what: str) -> str:
    return (
        f"peft cannot represent {what}; write its weight change as a LoRA of rank k with"
        " lfl_jax.adapters.truncate(adapter, params, k), which also gives its error"
    )


def _export(adapter: dict, name: str, place: Place) -> _Module | None:
    """One module, None where nothing is adapted; UserError for what PEFT has no form for."""
    layer = layer_at(adapter, place)
    if isinstance(layer, DoRA) and not layer.per_input:
        gain = float(layer.gain[0])
        if gain not in (0, 1):
            raise UserError(_no_counterpart(f"DoRA scaled by {gain:g} (at {name})"))
        return (
            _module(*low_rank_factors(LoRA(layer.a, layer.b, layer.scale)), np.asarray(layer.m))
            if gain
            else None
        )
    factors = low_rank_factors(layer) if layer else None
    if layer and factors is None:
        kinds = sorted({type(member).__name__ for member in members(layer)})
        what = f"a Mix of {' and '.join(kinds)}" if isinstance(layer, Mix) else kinds[0]
        if any(member.on_output for member in members(layer)):
            raise UserError(
                f"peft cannot represent {what} (at {name}); save it as a file, NAME.safetensors"
            )
        raise UserError(_no_counterpart(f"{what} (at {name})"))
    return _module(*factors, None) if factors and factors[2].size else None


def _module(a: np.ndarray, b: np.ndarray, scale: np.ndarray, m: np.ndarray | None) -> _Module:
    """One scale per module: scales that differ by rank go into B. Rank 0 (a DoRA's) is written as a
    rank of zeros."""
    if not scale.size:
        return _Module(np.zeros((len(a), 1), a.dtype), np.zeros((1, b.shape[1]), b.dtype), 1.0, m)
    if not np.isfinite(scale).all():
        raise UserError("the adapter's scale is not finite; nothing is written")
    if (scale == scale[0]).all():
        return _Module(a, b, float(scale[0]), m)
    return _Module(a, b * scale[:, None], 1.0, m)


def _alpha(module: _Module) -> int | float:
    """The shortest alpha with alpha / rank equal to the scale in float32."""
    rank = module.a.shape[1]
    exact = module.scale * rank
    short = (round(exact), round(exact, 6))
    return next((x for x in short if np.float32(x / rank) == np.float32(module.scale)), exact)


def _tensors(module: _Module) -> Iterator[tuple[str, np.ndarray]]:
    yield "lora_A.weight", module.a.T
    yield "lora_B.weight", module.b.T
    if module.m is not None:
        yield "lora_magnitude_vector", module.m


def _config(modules: dict[str, _Module]) -> dict:
    if not modules:
        return {}
    ranks, alphas = (
        {n: x.a.shape[1] for n, x in modules.items()},
        {n: _alpha(x) for n, x in modules.items()},
    )
    (rank, _), (alpha, _) = (Counter(x.values()).most_common(1)[0] for x in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {n: x for n, x in alphas.items() if x != alpha},
        "use_dora": any(x.m is not None for x in modules.values()),
        "use_rslora": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
    }
