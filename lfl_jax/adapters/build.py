"""Adapters for a model: specs from the weights' specs, initial values, dW, merge into the weights.

A kind of adapter is a class with the methods of `kind.Kind`, in a file of its own, and an entry of
KINDS; or a class in a file of the user's, named FILE.py:CLASS.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.adapters import adapter_tree, mora, routed
from lfl_jax.adapters.adapter_tree import (
    Adapter,
    all_members,
    as_layer,
    is_layer,
    member_count,
    named_layers,
)
from lfl_jax.adapters.bottleneck import Bottleneck
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.adapters.ia3 import IA3
from lfl_jax.adapters.inits import LoftQ, OLoRA, PiSSA
from lfl_jax.adapters.kind import Kind, Shared
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import AdapterLayer, Mix, StackedFactors, members
from lfl_jax.adapters.placement import Placement, placements
from lfl_jax.adapters.subspace import Subspace
from lfl_jax.adapters.vera import VeRA
from lfl_jax.config import AdapterConfig, own_code
from lfl_jax.core import spec, tree
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import AdapterTree, DType, Key, Params, PyTree, Weight
from lfl_jax.errors import UserError

# Relative difference of norms from which on weights count as others: bfloat16's rounding is 4e-4 at
# 8 inputs and less with more of them, NF4's is 4e-3.
DEVIATION = 1e-3

# config.adapter.kind -> class: the only list of kinds there is.
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
    "subspace": Subspace,
    **mora.OPERATORS,
}


def find_kinds(config: AdapterConfig) -> list[type[Kind]]:
    """The classes of config.kind; UserError lists the kinds there are."""
    kinds = [_find_kind(name, config) for name in config.kinds]
    if config.rank is None and any(kind.ranked for kind in kinds):
        raise UserError(
            f"config.adapter.kind={config.kind!r} needs config.adapter.rank, for example 16"
        )
    if config.init != "b_zero" and not any(kind.either_factor_zero for kind in kinds):
        raise UserError(
            f"config.adapter.init={config.init} is for lora and dora, one of whose factors starts"
            f" at zero; {config.kind} has a start of its own"
        )
    return kinds


def _find_kind(name: str, config: AdapterConfig) -> type[Kind]:
    if own_code.is_place(name):
        return own_code.find(config.code, "adapter.kind", name, is_kind)
    if name not in KINDS:
        raise UserError(
            f"config.adapter.kind={config.kind!r}: there is no {name!r}; there are: none,"
            f" {', '.join(KINDS)}, and your own as FILE.py:CLASS"
        )
    return KINDS[name]


def is_kind(value: object) -> bool:
    """Whether this is a class of adapter layers."""
    return isinstance(value, type) and issubclass(value, Kind)


def specs(param_specs: Params, config: AdapterConfig) -> AdapterTree:
    """Adapter specs for stacked weight specs: an adapter layer, or None, at each linear weight.

    Beside "layers", "shared" has the arrays that all layers of a kind share, where a kind has any.
    """
    linear = {"layers": {part: param_specs["layers"][part] for part in ("attn", "mlp")}}
    weights: dict[str, ArraySpec] = dict(tree.items(linear, spec.is_spec))
    # All stacks have the model's number of layers.
    n_layers = next(iter(weights.values())).shape[0]

    # which kinds, and at which weights with which ranks
    kinds = find_kinds(config)
    by_weight = placements(list(weights), n_layers, config)
    _require_applied(config, kinds, by_weight)

    def layer(path: tree.KeyPath, weight: ArraySpec) -> AdapterLayer | None:
        placement = by_weight.get(tree.name(path))
        if placement is None:
            return None
        # several kinds at one weight make a Mix, in the order of config.kind
        group = [kind for kind in kinds if _is_applied(kind, placement)]
        return as_layer([kind.specs(weight, placement) for kind in group])

    adapter = jax.tree_util.tree_map_with_path(layer, linear, is_leaf=spec.is_spec)
    shared = _shared_specs(config, kinds, weights, by_weight)
    return adapter | ({"shared": shared} if shared else {})


def _is_applied(kind: type[Kind], placement: Placement) -> bool:
    """Whether a kind can adapt this weight; a bottleneck adapts `o` and `down` only."""
    return kind.modules is None or placement.module in kind.modules


def _require_applied(
    config: AdapterConfig, kinds: list[type[Kind]], by_weight: dict[str, Placement]
) -> None:
    """UserError for a kind that would adapt nothing."""
    for name, kind in zip(config.kinds, kinds, strict=True):
        if not by_weight:
            raise UserError(
                f"adapter kind {name!r} adapts nothing: rank_pattern gives rank 0 to every layer"
                " that targets name"
            )
        if not any(_is_applied(kind, placement) for placement in by_weight.values()):
            raise UserError(
                f"adapter kind {name!r} is applied to {', '.join(kind.modules)}; targets name none"
                " of them"
            )


def _shared_specs(
    config: AdapterConfig,
    kinds: list[type[Kind]],
    weights: dict[str, ArraySpec],
    by_weight: dict[str, Placement],
) -> dict[str, dict[str, ArraySpec]]:
    """{kind: {leaf: spec}} of the arrays that a kind's layers share."""
    shared = {}
    for name, kind in zip(config.kinds, kinds, strict=True):
        adapted = {path: p for path, p in by_weight.items() if _is_applied(kind, p)}
        leaves = kind.shared_specs([weights[path] for path in adapted], list(adapted.values()))
        if leaves:
            # of FILE.py:CLASS the class alone: a file's path is no part of a leaf's path
            short_name = own_code.split(name)[1] if own_code.is_place(name) else name
            shared[short_name] = leaves
    return shared


def init(
    adapter_specs: AdapterTree, params: Params, key: Key, originals: Params | None = None
) -> AdapterTree:
    """Initial values; leaves that are read from the base, such as DoRA's m, are bound to it.

    A fresh adapter changes nothing, but for LoftQ, which brings a quantised base closer to the
    `originals` from before it was quantised.
    """
    # In two steps: `bind` reads the weights, and a spec cannot.
    return bind(spec.init(adapter_specs, key), params, originals)


def bind(adapter: Adapter, params: Params, originals: Params | None = None) -> AdapterTree:
    """Every layer at the start of its training: DoRA's m, PiSSA's and OLoRA's A and B are set.

    What was trained is lost; `rebind` keeps it. UserError for a weight that a kind cannot adapt.
    """
    adapter, params = adapter_tree.as_adapter_and_params("bind", adapter, params)
    # Nothing is read from the weights: no compilation, and the same arrays come back.
    if all(type(m).bind is Kind.bind for m in all_members(adapter)):
        return adapter
    # only LoftQ reads the originals; without them its `bind` raises
    layers = _at_weights(_bound, adapter, params, originals or params)
    return _validated(adapter | {"layers": layers})


def rebind(adapter: Adapter, params: Params) -> AdapterTree:
    """The adapter over other weights: what trained stays, what was read from the weights is again.

    That is DoRA's norms. PiSSA's and OLoRA's A0 and B0 are where training started, so they are part
    of dW and stay. UserError for a weight that a kind cannot adapt.
    """
    adapter, params = adapter_tree.as_adapter_and_params("rebind", adapter, params)
    if all(type(m).rebind is Kind.rebind for m in all_members(adapter)):
        return adapter
    return _validated(adapter | {"layers": _at_weights(_rebound, adapter, params)})


def require_bound(name: str, adapter: AdapterTree, params: Params) -> None:
    """UserError, which starts with `name`, for a layer that was trained over other weights.

    A layer that keeps norms of its weight (DoRA) can tell. Traced values are not checked; rounding
    of the weights to bfloat16 is no difference.
    """
    for path, layer in named_layers(adapter):
        w = adapter_tree.weight(params, path)
        for member in members(layer):
            if type(member).deviation is Kind.deviation or _is_traced(member, w):
                continue
            # one number leaves the device for each layer that keeps something of its weight
            deviation = float(_deviation(member, w))
            if deviation > DEVIATION:
                raise UserError(
                    f"{name}: the {type(member).__name__} at {path} was trained over other weights,"
                    f" whose norms differ by {deviation:.1%}; adapters.rebind(adapter, params)"
                    " reads these and keeps what was trained"
                )


def _validated(adapter: AdapterTree) -> AdapterTree:
    """The adapter itself; UserError for a layer that cannot be computed with."""
    for path, layer in named_layers(adapter):
        for member in members(layer):
            member.validate(path)
    return adapter


def _is_traced(*trees: PyTree) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(trees))


@jax.jit
def _deviation(layer: Kind, w: Weight) -> Float[Array, ""]:
    # The root mean square over the stack, so that a single other layer still shows.
    by_layer = jax.vmap(lambda x, v: x.deviation(v))(layer, w)
    return jnp.sqrt(jnp.mean(jnp.square(by_layer)))


@jax.jit
def _bound(layer: AdapterLayer, w: Weight, original: Weight) -> AdapterLayer:
    return jax.vmap(lambda x, v, o: x.bind(v, o))(layer, w, original)


@jax.jit
def _rebound(layer: AdapterLayer, w: Weight) -> AdapterLayer:
    return jax.vmap(lambda x, v: x.rebind(v))(layer, w)


def precompute_for_inference(adapter: Adapter, params: Params) -> AdapterTree:
    """The adapter with everything computed that is the same at every step of an evaluation.

    That is DoRA's norm, and a random subspace's change; and the factors of many low-rank members
    are stacked. UserError for an adapter that was trained over other weights.
    """
    name = "precompute_for_inference"
    adapter, params = adapter_tree.as_adapter_and_params(name, adapter, params)
    require_bound(name, adapter, params)
    nothing_to_do = all(
        type(m).precompute_for_inference is Kind.precompute_for_inference
        for m in all_members(adapter)
    )
    if nothing_to_do and member_count(adapter) < routed.MEMBERS:
        return adapter
    layers = _at_weights(functools.partial(_precomputed, adapter.get("shared")), adapter, params)
    return adapter_tree.with_layers(adapter, layers)


@jax.jit
def _precomputed(shared: Shared, layer: AdapterLayer, w: Weight) -> AdapterLayer:
    def one_layer(layer: AdapterLayer, w: Weight) -> AdapterLayer:
        factors = routed.stacked_factors(layer, w, shared)
        if factors is not None:
            return StackedFactors(factors)
        group = [_precomputed_member(member, w, shared) for member in members(layer)]
        return Mix(tuple(group)) if isinstance(layer, Mix) else group[0]

    return jax.vmap(one_layer)(layer, w)


def _precomputed_member(member: Kind, w: Weight, shared: Shared) -> Kind:
    # A kind that computes nothing here must not be given the shared arrays: a copy for every layer.
    if type(member).precompute_for_inference is Kind.precompute_for_inference:
        return member
    return member.with_shared(shared).precompute_for_inference(w)


def deltas(adapter: Adapter, params: Params) -> Params:
    """dW (L, I, O) of every adapted weight, None elsewhere.

    UserError for an adapter that was trained over other weights, or a kind that has no dW.
    """
    adapter, params = adapter_tree.as_adapter_and_params("deltas", adapter, params)
    require_bound("deltas", adapter, params)
    shared = adapter.get("shared")

    # vmap: a kind's methods see one layer of the stack.
    def delta(layer: AdapterLayer, w: Weight) -> Float[Array, "L I O"]:
        return jax.vmap(lambda x, v: x.with_shared(shared).delta(v))(layer, w)

    return {"layers": _at_weights(delta, adapter, params)}


def merge(adapter: Adapter, params: Params, dtype: DType | None = None) -> Params:
    """Parameters with W + dW in place of W, summed in float32; to unmerge, keep `params`.

    dtype: of the result. None keeps each parameter's, and for a quantised one what it dequantises
    to: an adapted weight does not stay quantised, and with a dtype none does. One stacked weight is
    worked on at a time. UserError for an adapter that was trained over other weights, or has no dW.
    """
    adapter, params = adapter_tree.as_adapter_and_params("merge", adapter, params)
    require_bound("merge", adapter, params)
    # new dicts along the path of each merged weight: the inputs are not written to
    stacks, shared = dict(params["layers"]), adapter.get("shared")
    for path, layer in named_layers(adapter):
        _, part, module = path.split("/")
        merged = _merged(stacks[part][module], layer, shared, dtype)
        stacks[part] = stacks[part] | {module: merged}

    result = params | {"layers": stacks}
    if dtype is None:
        return result
    return jax.tree.map(lambda x: quant.dense(x).astype(dtype), result, is_leaf=quant.is_quantised)


@functools.partial(jax.jit, static_argnames="dtype")
def _merged(
    w: Weight, layer: AdapterLayer, shared: Shared, dtype: DType | None
) -> Float[Array, "L I O"]:
    """W + dW, layer by layer of a stack."""

    def one_layer(pair: tuple[Weight, AdapterLayer]) -> Float[Array, "I O"]:
        w, layer = pair
        dw = layer.with_shared(shared).delta(w)
        return (quant.dense(w).astype(jnp.float32) + dw).astype(dtype or w.dtype)

    # a map and not vmap: in float32 one layer at a time exists, not the stack
    return jax.lax.map(one_layer, (w, layer))


def sizes(adapter: AdapterTree) -> tuple[int, int]:
    """(effective, stored) trainable scalars: stored counts padded ranks and unadapted layers."""
    effective = sum(int(member.effective_size()) for member in all_members(adapter))
    # Scales and gains are leaves as well, but no optimizer updates them.
    is_constant = adapter_tree.constant_mask(adapter)
    trained = jax.tree.map(lambda x, constant: 0 if constant else x.size, adapter, is_constant)
    # What layers share and train is counted once, and has no padding.
    shared = sum(jax.tree.leaves(trained.get("shared", {})))
    return effective + shared, sum(jax.tree.leaves(trained))


def _at_weights(function: Callable[..., PyTree], adapter: AdapterTree, *params: Params) -> PyTree:
    """function(layer, w, ...) at every adapted weight, with its value in each of the params."""

    def visit(layer: AdapterLayer | None, *ws: Weight) -> PyTree:
        return None if layer is None else function(layer, *ws)

    parts = adapter["layers"]
    # of the parameters, the norms of a layer have no place in an adapter's tree
    weights = [_parts(x["layers"], parts) for x in params]
    return jax.tree.map(visit, parts, *weights, is_leaf=is_layer)


def _parts(layers: Params, parts: AdapterTree) -> Params:
    return {part: layers[part] for part in parts}
