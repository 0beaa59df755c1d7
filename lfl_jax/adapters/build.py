"""Adapters for a model: specs from the weights' specs, initial values, and their merge into the weights."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lfl_jax.adapters import mora
from lfl_jax.adapters.bottleneck import Bottleneck
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.adapters.ia3 import IA3
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import Mix, members
from lfl_jax.adapters.placement import place
from lfl_jax.config import AdapterConfig
from lfl_jax.core import spec, tree
from lfl_jax.errors import UserError

# A kind is a frozen dataclass, its leaves stacked over layers: specs (a class method), bind, factor, change, delta,
# scaled, effective_size. Class attributes say what differs: `ranked` = False needs no rank, `modules` are those it can
# stand at, `on_output` acts on the sum that the others make.
KINDS: dict[str, Any] = {
    "lora": LoRA,
    "dora": DoRA,
    "ia3": IA3,
    "bottleneck": Bottleneck,
    "full_delta": FullDelta,
    **mora.OPERATORS,
}
CONSTANTS = ("scale", "gain", "w2")  # leaves that never train, whatever the config's patterns say


def is_layer(x: Any) -> bool:
    """Whether x is an adapter layer (or None: nothing adapted here) rather than a branch of the tree."""
    return x is None or not isinstance(x, dict)


def find_kinds(config: AdapterConfig) -> list[Any]:
    """The classes of config.kind; UserError lists the kinds there are."""
    for name in config.kinds:
        if name not in KINDS:
            raise UserError(
                f"config.adapter.kind={config.kind!r}: there is no {name!r}; there are: none, {', '.join(KINDS)}"
            )
    found = [KINDS[name] for name in config.kinds]
    if config.rank is None and any(getattr(kind, "ranked", True) for kind in found):
        raise UserError(f"config.adapter.kind={config.kind!r} needs config.adapter.rank, for example 16")
    return found


def specs(param_specs: dict, config: AdapterConfig) -> dict:
    """Adapter specs for stacked weight specs: the tree of params["layers"] with an adapter layer or None at weights."""
    weights = {"layers": {part: param_specs["layers"][part] for part in ("attn", "mlp")}}
    stacked = jax.tree.leaves(weights, is_leaf=spec.is_spec)
    placed = place(tree.paths(weights, is_leaf=spec.is_spec), stacked[0].shape[0], config)
    kinds = find_kinds(config)

    def layer(path: Any, weight: spec.ArraySpec) -> Any:
        where = placed.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        here = [kind for kind in kinds if where and where.module in getattr(kind, "modules", (where.module,))]
        built = tuple(kind.specs(weight, where) for kind in here)
        return None if not built else built[0] if len(built) == 1 else Mix(built)

    made = jax.tree_util.tree_map_with_path(layer, weights, is_leaf=spec.is_spec)
    for name, kind in zip(config.kinds, kinds, strict=True):
        if not any(isinstance(m, kind) for x in jax.tree.leaves(made, is_leaf=is_layer) for m in members(x)):
            raise UserError(f"adapter kind {name!r} stands at {', '.join(kind.modules)}; targets name none of them")
    return made


def init(adapter_specs: dict, params: dict, key: jax.Array) -> dict:
    """Initial values; leaves that are read off the base (DoRA's m) are bound to it. A fresh adapter changes nothing."""
    return bind(spec.init(adapter_specs, key), params)


def bind(adapter: dict, params: dict) -> dict:
    """Every layer bound to its weight."""
    return _with_weights(_bound, adapter, params)


@jax.jit
def _bound(layer: Any, w: Any) -> Any:
    return jax.vmap(lambda x, v: x.bind(v))(layer, w)


def deltas(adapter: dict, params: dict) -> dict:
    """dW (L, I, O) of every adapted weight, None elsewhere."""
    return _with_weights(lambda layer, w: jax.vmap(lambda x, v: x.delta(v))(layer, w), adapter, params)


def merge(params: dict, adapter: dict, dtype: Any = None) -> dict:
    """Parameters with W + dW in place of W: summed in float32, cast once. Unmerging is keeping `params`.

    One stacked weight is worked on at a time. dtype: of the result; None keeps each parameter's.
    """
    merged = {
        part: {
            name: w if layers[name] is None else _merged(w, layers[name], dtype)
            for name, w in params["layers"][part].items()
        }
        for part, layers in adapter.get("layers", {}).items()
    }
    result = params | {"layers": params["layers"] | merged}
    return result if dtype is None else jax.tree.map(lambda x: x.astype(dtype), result)


@partial(jax.jit, static_argnames="dtype")
def _merged(w: Any, layer: Any, dtype: Any) -> Any:
    """W + dW, layer by layer of a stack (L, I, O)."""

    def add(pair: tuple[Any, Any]) -> Any:
        w, layer = pair
        return (w.astype(jnp.float32) + layer.delta(w)).astype(dtype or w.dtype)

    return jax.lax.map(add, (w, layer))


def sizes(adapter: dict) -> tuple[int, int]:
    """(effective, stored) trainable scalars: stored counts rank padding and unadapted layers of a stack, too."""
    layers = [layer for layer in jax.tree.leaves(adapter, is_leaf=is_layer) if layer is not None]
    effective = sum(int(member.effective_size()) for layer in layers for member in members(layer))
    names = tree.paths(adapter)
    stored = sum(
        x.size for n, x in zip(names, jax.tree.leaves(adapter), strict=True) if n.split("/")[-1] not in CONSTANTS
    )
    return effective, stored


def _with_weights(function: Any, adapter: dict, params: dict) -> dict:
    def visit(layer: Any, w: Any) -> Any:
        return None if layer is None else function(layer, w)

    weights = {"layers": {part: params["layers"][part] for part in adapter["layers"]}}
    return jax.tree.map(visit, adapter, weights, is_leaf=is_layer)
