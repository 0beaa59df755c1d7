"""Adapter trees as arguments: checks of what is one, its layers, and its leaves that never train.

An adapter is {"layers": {"attn": {"q": layer or None, ...}, "mlp": ...}}: the tree of the linear
weights, with an adapter layer where a weight is adapted. Beside "layers" it may have "shared", the
arrays that all layers of a kind read, and `replaced_parameters.KEY`.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import jax

from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.mix import AdapterLayer, Mix, count, members
from lfl_jax.core import tree
from lfl_jax.core.pytree import PyTree
from lfl_jax.core.types import AdapterTree, Params
from lfl_jax.errors import UserError

# As functions take one: None is an empty adapter; a list is refused with the call to write instead.
Adapter: TypeAlias = AdapterTree | list | tuple | None


def is_layer(x: object) -> bool:
    """Whether x is an adapter layer (or None, an unadapted weight) and not a branch of the tree."""
    return x is None or type(x) not in (dict, tuple)


def layers_of(adapter: AdapterTree | None) -> list[AdapterLayer]:
    """All adapter layers of a tree, unadapted weights left out; none for an empty tree."""
    leaves = jax.tree.leaves((adapter or {}).get("layers", {}), is_leaf=is_layer)
    return [layer for layer in leaves if layer is not None]


def named_layers(adapter: AdapterTree) -> list[tuple[str, AdapterLayer]]:
    """(path, layer) of every adapted weight, for example ("layers/attn/q", LoRA)."""
    layers = {"layers": adapter["layers"]}
    return [(path, layer) for path, layer in tree.items(layers, is_layer) if layer is not None]


def all_members(adapter: AdapterTree | None) -> Iterator[Kind]:
    """Every adapter at every weight."""
    for layer in layers_of(adapter):
        yield from members(layer)


def as_layer(group: Sequence[Kind]) -> AdapterLayer | None:
    """These adapters at one weight: None, the one itself, or a Mix."""
    if not group:
        return None
    return group[0] if len(group) == 1 else Mix(tuple(group))


def member_count(adapter: AdapterTree | None) -> int:
    """Columns of the routing weights: the most adapters at any one weight; 0 without an adapter."""
    return max((count(layer) for layer in layers_of(adapter)), default=0)


def with_layers(adapter: AdapterTree, layers: PyTree) -> AdapterTree:
    """The adapter with these layers; shared arrays are dropped where no layer reads them."""
    result = adapter | {"layers": layers}
    return result if needs_shared(result) else {k: v for k, v in result.items() if k != "shared"}


def needs_shared(adapter: AdapterTree) -> bool:
    """Whether any layer reads the arrays that layers share, as VeRA does."""
    return any(type(m).with_shared is not Kind.with_shared for m in all_members(adapter))


def constant_mask(adapter: AdapterTree) -> PyTree:
    """A bool per leaf, True where it never trains.

    That is `Kind.constants`, and what is shared, but for `Kind.shared_trained`.
    """
    trained = {f"shared/{path}" for m in all_members(adapter) for path in m.shared_trained}
    beside = {name: part for name, part in adapter.items() if name != "layers"}
    mask = jax.tree_util.tree_map_with_path(lambda path, _: tree.name(path) not in trained, beside)
    if "layers" in adapter:
        is_kind = lambda x: isinstance(x, Kind)  # noqa: E731
        mask["layers"] = jax.tree.map(_constant_leaves, adapter["layers"], is_leaf=is_kind)
    return mask


def _constant_leaves(node: PyTree) -> PyTree:
    # a map that stops at kinds also visits the arrays of StackedFactors, which are for inference
    if not isinstance(node, Kind):
        return True
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].name in node.constants, node)


def as_adapter(name: str, value: object) -> AdapterTree:
    """The adapter, an empty one for None and {}.

    Raises UserError, which starts with `name`, for anything else.
    """
    if value is None or value == {}:
        return {"layers": {}}
    if isinstance(value, list | tuple):
        raise UserError(
            f"{name}: got a {type(value).__name__} where an adapter belongs; write"
            f" {name}(*adapters)"
        )
    if _is_params(value):
        raise UserError(
            f"{name}: got parameters where an adapter belongs; the adapter comes before the"
            " parameters"
        )
    if not isinstance(value, dict) or "layers" not in value:
        raise UserError(
            f"{name}: got a {type(value).__name__}; expected an adapter, a dict with 'layers'"
        )
    return value


def as_params(name: str, value: object) -> Params:
    """The parameters.

    Raises UserError, which starts with `name`, for anything else, and for unstacked layers.
    """
    if not _is_params(value):
        is_adapter = isinstance(value, dict) and "layers" in value
        what = "an adapter" if is_adapter else f"a {type(value).__name__}"
        raise UserError(f"{name}: got {what} where the model's parameters belong")
    if not isinstance(value["layers"], dict):
        raise UserError(
            f"{name}: the parameters' layers are unstacked; give the stacked ones, as they are"
            " loaded"
        )
    return value


def as_adapter_and_params(name: str, adapter: object, params: object) -> tuple[AdapterTree, Params]:
    """(adapter, parameters) of one model, both with stacked layers.

    Raises UserError, which starts with `name`, for swapped arguments, other objects, and an adapter
    of other weights than the parameters have.
    """
    if _is_params(adapter) and not _is_params(params):
        raise UserError(
            f"{name}: the adapter comes first, then the parameters: {name}(adapter, params, ...)"
        )
    adapter, params = as_adapter(name, adapter), as_params(name, params)
    if not isinstance(adapter["layers"], dict):
        raise UserError(
            f"{name}: the adapter's layers are unstacked; give the stacked ones, before"
            " tree.unstack"
        )
    # an adapter of another architecture is named; later it would be an error of shapes
    for path, _ in named_layers(adapter):
        _, part, module = path.split("/")
        if module not in params["layers"].get(part, {}):
            raise UserError(f"{name}: {path} is no weight of these parameters")
    return adapter, params


def weight(params: Params, path: str) -> PyTree:
    """The weight at a layer's path, quantised or not; of a mask, its bools."""
    _, part, module = path.split("/")
    return params["layers"][part][module]


def _is_params(x: object) -> bool:
    # both have "layers"; only parameters have an embedding
    return isinstance(x, dict) and "layers" in x and "embed" in x
