"""Adapters for a model: specs from the weights' specs, initial values, and their merge into the
weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lfl_jax import quant
from lfl_jax.adapters import adapter_tree, mora, routed
from lfl_jax.adapters.adapter_tree import Adapter, is_layer, layers_of, member_count
from lfl_jax.adapters.bottleneck import Bottleneck
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.adapters.ia3 import IA3
from lfl_jax.adapters.inits import LoftQ, OLoRA, PiSSA
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import Mix, StackedFactors, members
from lfl_jax.adapters.placement import Placement, place
from lfl_jax.adapters.vera import VeRA
from lfl_jax.config import AdapterConfig, own_code
from lfl_jax.core import spec, tree
from lfl_jax.errors import UserError

# of norms, relative: NF4's rounding is 4e-3, bfloat16's 4e-4 at 8 inputs and less with more
DEVIATION = 1e-3

# A kind is a class with the methods of `kind.Kind`, in a file of its own.
KINDS: dict[str, type[Kind]] = {
    "lora": LoRA,
    "pissa": PiSSA,
    "olora": OLoRA,
    "loftq": LoftQ,
    "dora": DoRA,
    "vera": VeRA,
    "ia3": IA3,
    "bottleneck": Bottleneck,
    "full_delta": FullDelta,
    **mora.OPERATORS,
}


def find_kinds(config: AdapterConfig) -> list[type[Kind]]:
    """The classes of config.kind; UserError lists the kinds there are."""
    found = [
        _own_kind(name, config) if own_code.is_place(name) else KINDS.get(name)
        for name in config.kinds
    ]
    if None in found:
        name = config.kinds[found.index(None)]
        raise UserError(
            f"config.adapter.kind={config.kind!r}: there is no {name!r}; there are: none,"
            f" {', '.join(KINDS)}, and your"
            " own as FILE.py:CLASS"
        )
    if config.rank is None and any(kind.ranked for kind in found):
        raise UserError(
            f"config.adapter.kind={config.kind!r} needs config.adapter.rank, for example 16"
        )
    return found


def _own_kind(place: str, config: AdapterConfig) -> type[Kind]:
    return own_code.find(config.code, "adapter.kind", place, is_kind)


def is_kind(found: Any) -> bool:
    """Whether this is a class of adapter layers."""
    return isinstance(found, type) and issubclass(found, Kind)


def _leaf_name(kind: str) -> str:
    """What a kind's shared arrays are called: a path has no place in the path of a leaf."""
    return own_code.split(kind)[1] if own_code.is_place(kind) else kind


def specs(param_specs: dict, config: AdapterConfig) -> dict:
    """Adapter specs for stacked weight specs: the tree of params["layers"] with an adapter layer or
    None at weights.

    Beside it, "shared" has the arrays that all layers of a kind share, where a kind has such.
    """
    weights = {"layers": {part: param_specs["layers"][part] for part in ("attn", "mlp")}}
    stacked = jax.tree.leaves(weights, is_leaf=spec.is_spec)
    placed = place(tree.paths(weights, is_leaf=spec.is_spec), stacked[0].shape[0], config)
    kinds = find_kinds(config)

    def layer(path: Any, weight: spec.ArraySpec) -> Any:
        where = placed.get(tree.name(path))
        here = [
            kind for kind in kinds if where and where.module in (kind.modules or (where.module,))
        ]
        built = tuple(kind.specs(weight, where) for kind in here)
        return None if not built else built[0] if len(built) == 1 else Mix(built)

    made = jax.tree_util.tree_map_with_path(layer, weights, is_leaf=spec.is_spec)
    for name, kind in zip(config.kinds, kinds, strict=True):
        if not any(type(m) is kind for layer in layers_of(made) for m in members(layer)):
            raise UserError(
                f"adapter kind {name!r} stands at {', '.join(kind.modules)}; targets name none of"
                " them"
            )
    shared = _shared(config, dict(tree.items(weights, spec.is_spec)), placed)
    return made | ({"shared": shared} if shared else {})


def _shared(
    config: AdapterConfig, weights: dict[str, spec.ArraySpec], placed: dict[str, Placement]
) -> dict:
    """{kind: {leaf: spec}} of the arrays that a kind's layers share."""
    found = {}
    for name, kind in zip(config.kinds, find_kinds(config), strict=True):
        here = {path: p for path, p in placed.items() if p.module in (kind.modules or (p.module,))}
        found[_leaf_name(name)] = kind.shared_specs(
            [weights[path] for path in here], list(here.values())
        )
    return {name: leaves for name, leaves in found.items() if leaves}


def init(adapter_specs: dict, params: dict, key: jax.Array, originals: dict | None = None) -> dict:
    """Initial values; leaves that are read off the base (DoRA's m) are bound to it. A fresh adapter
    changes nothing, but for LoftQ, which brings a quantised base closer to the `originals` it was
    quantised from.
    """
    return bind(spec.init(adapter_specs, key), params, originals)


def bind(adapter: Adapter, params: dict, originals: dict | None = None) -> dict:
    """Every layer at the start of its training, bound to its weight: DoRA's m, PiSSA's and OLoRA's
    A and B are set.

    What was trained is lost; `rebind` keeps it. UserError for a weight that a kind cannot be at.
    """
    adapter, params = adapter_tree.as_adapter_and_params("bind", adapter, params)
    if all(type(m).bind is Kind.bind for layer in layers_of(adapter) for m in members(layer)):
        return adapter
    return _validated(
        adapter | {"layers": _at_weights(_bound, adapter, params, originals or params)}
    )


def rebind(adapter: Adapter, params: dict) -> dict:
    """The adapter over other weights, with all that was trained: only what a kind holds of its
    weight is read again.

    That is DoRA's norms. PiSSA's and OLoRA's A0 and B0 say where training started, so they are part
    of dW and stay. UserError for a weight that a kind cannot be at.
    """
    adapter, params = adapter_tree.as_adapter_and_params("rebind", adapter, params)
    if all(type(m).rebind is Kind.rebind for layer in layers_of(adapter) for m in members(layer)):
        return adapter
    return _validated(adapter | {"layers": _at_weights(_rebound, adapter, params)})


def require_bound(name: str, adapter: dict, params: dict) -> None:
    """UserError, which starts with `name`, for a layer that holds the norms of other weights;
    traced ones pass.

    Rounding of the weights to bfloat16 is no difference.
    """
    for path, layer in adapter_tree.named_layers(adapter):
        w = adapter_tree.weight(params, path)
        for member in members(layer):
            if type(member).deviation is Kind.deviation or _traced(member, w):
                continue
            off = float(_deviation(member, w))
            if off > DEVIATION:
                raise UserError(
                    f"{name}: the {type(member).__name__} at {path} was trained over other weights,"
                    " whose norms differ"
                    f" by {off:.1%}; adapters.rebind(adapter, params) reads these and keeps what"
                    " was trained"
                )


def _validated(adapter: dict) -> dict:
    """The adapter itself; UserError for a layer that cannot be computed with."""
    for path, layer in adapter_tree.named_layers(adapter):
        for member in members(layer):
            member.validate(path)
    return adapter


def _traced(*arrays: Any) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(arrays))


@jax.jit
def _deviation(layer: Any, w: Any) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(jax.vmap(lambda x, v: x.deviation(v))(layer, w))))


@jax.jit
def _bound(layer: Any, w: Any, original: Any) -> Any:
    return jax.vmap(lambda x, v, o: x.bind(v, o))(layer, w, original)


@jax.jit
def _rebound(layer: Any, w: Any) -> Any:
    return jax.vmap(lambda x, v: x.rebind(v))(layer, w)


def precompute_for_inference(adapter: Adapter, params: dict) -> dict:
    """The adapter for evaluation: what its layers compute from their weights alone is computed once
    (DoRA's norm), and many members become StackedFactors. UserError for an adapter trained over
    other weights."""
    adapter, params = adapter_tree.as_adapter_and_params(
        "precompute_for_inference", adapter, params
    )
    require_bound("precompute_for_inference", adapter, params)
    found = [m for layer in layers_of(adapter) for m in members(layer)]
    unchanged = all(
        type(m).precompute_for_inference is Kind.precompute_for_inference for m in found
    )
    if member_count(adapter) < routed.MEMBERS and unchanged:
        return adapter
    layers = _at_weights(functools.partial(_precomputed, adapter.get("shared")), adapter, params)
    return adapter_tree.with_layers(adapter, layers)


@jax.jit
def _precomputed(shared: Any, layer: Any, w: Any) -> Any:
    def one(layer: Any, w: Any) -> Any:
        factors = routed.stacked_factors(layer, w, shared)
        return layer.precompute_for_inference(w) if factors is None else StackedFactors(factors)

    return jax.vmap(one)(layer, w)


def deltas(adapter: Adapter, params: dict) -> dict:
    """dW (L, I, O) of every adapted weight, None elsewhere. UserError for an adapter trained over
    other weights."""
    adapter, params = adapter_tree.as_adapter_and_params("deltas", adapter, params)
    require_bound("deltas", adapter, params)
    shared = adapter.get("shared")

    def delta(layer: Any, w: Any) -> Any:
        return jax.vmap(lambda x, v: x.with_shared(shared).delta(v))(layer, w)

    return {"layers": _at_weights(delta, adapter, params)}


def merge(adapter: Adapter, params: dict, dtype: Any = None) -> dict:
    """Parameters with W + dW in place of W: summed in float32, cast once. Unmerging is keeping
    `params`.

    One stacked weight is worked on at a time. dtype: of the result; None keeps each parameter's,
    and what a quantised
    one stands for: an adapted weight does not stay quantised, and with a dtype none does. UserError
    for an adapter that was trained over other weights, or has no dW.
    """
    adapter, params = adapter_tree.as_adapter_and_params("merge", adapter, params)
    require_bound("merge", adapter, params)
    shared = adapter.get("shared")
    merged = {
        part: {
            name: w if layers[name] is None else _merged(w, layers[name], shared, dtype)
            for name, w in params["layers"][part].items()
        }
        for part, layers in adapter.get("layers", {}).items()
    }
    result = params | {"layers": params["layers"] | merged}
    if dtype is None:
        return result
    return jax.tree.map(lambda x: quant.dense(x).astype(dtype), result, is_leaf=quant.is_quantised)


@functools.partial(jax.jit, static_argnames="dtype")
def _merged(w: Any, layer: Any, shared: Any, dtype: Any) -> Any:
    """W + dW, layer by layer of a stack (L, I, O)."""

    def add(pair: tuple[Any, Any]) -> Any:
        w, layer = pair
        return (quant.dense(w).astype(jnp.float32) + layer.with_shared(shared).delta(w)).astype(
            dtype or w.dtype
        )

    return jax.lax.map(add, (w, layer))


def sizes(adapter: dict) -> tuple[int, int]:
    """(effective, stored) trainable scalars: stored counts rank padding and unadapted layers of a
    stack, too."""
    effective = sum(
        int(member.effective_size()) for layer in layers_of(adapter) for member in members(layer)
    )
    adapter = {"layers": adapter["layers"]}
    never = jax.tree.leaves(adapter_tree.constant_mask(adapter))
    return effective, sum(
        x.size for x, c in zip(jax.tree.leaves(adapter), never, strict=True) if not c
    )


def _at_weights(function: Callable, adapter: dict, *params: dict) -> dict:
    """function(layer, w, ...) at every adapted weight of adapter["layers"], with its value in each
    of the params."""

    def visit(layer: Any, *ws: Any) -> Any:
        return None if layer is None else function(layer, *ws)

    layers = adapter["layers"]
    weights = ({part: x["layers"][part] for part in layers} for x in params)
    return jax.tree.map(visit, layers, *weights, is_leaf=is_layer)
