"""Adapter trees as arguments: what is one and what is not, its layers, and which of its leaves
never train."""

from typing import Any

import jax

from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.mix import count, members
from lfl_jax.core import tree
from lfl_jax.errors import UserError

# as functions take one: None is an empty adapter, a list is refused by name
Adapter = dict | list | tuple | None


def is_layer(x: Any) -> bool:
    """Whether x is an adapter layer (or None: nothing adapted here) rather than a branch of the
    tree."""
    return x is None or type(x) not in (dict, tuple)


def layers_of(adapter: dict | None) -> list[Any]:
    """All adapter layers of a tree, unadapted weights left out; none for an empty tree."""
    found = jax.tree.leaves((adapter or {}).get("layers", {}), is_leaf=is_layer)
    return [layer for layer in found if layer is not None]


def named_layers(adapter: dict) -> list[tuple[str, Any]]:
    """(path, layer) of every adapted weight, for example ("layers/attn/q", LoRA)."""
    layers = {"layers": adapter["layers"]}
    return [(path, layer) for path, layer in tree.items(layers, is_layer) if layer is not None]


def member_count(adapter: dict | None) -> int:
    """Columns of a routing: the most adapters at any one weight; 0 without an adapter."""
    return max((count(layer) for layer in layers_of(adapter)), default=0)


def with_layers(adapter: dict, layers: Any) -> dict:
    """The adapter with these layers; the shared arrays go where no layer reads them."""
    result = adapter | {"layers": layers}
    return result if needs_shared(result) else {k: v for k, v in result.items() if k != "shared"}


def needs_shared(adapter: dict) -> bool:
    """Whether any member reads the arrays that layers share, as VeRA does."""
    found = (m for layer in layers_of(adapter) for m in members(layer))
    return any(type(m).with_shared is not Kind.with_shared for m in found)


def constants(adapter: dict) -> dict:
    """A bool per leaf: True where it never trains, as its kind's `constants` and everything
    shared."""
    rest = jax.tree.map(lambda _: True, {k: v for k, v in adapter.items() if k != "layers"})
    if "layers" not in adapter:
        return rest
    layers = jax.tree.map(_constants, adapter["layers"], is_leaf=lambda x: isinstance(x, Kind))
    return rest | {"layers": layers}


def _constants(member: Any) -> Any:
    if not isinstance(member, Kind):  # an array of StackedFactors, which are for evaluation
        return True
    names = type(member).constants
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].name in names, member)


def as_adapter(name: str, given: Any) -> dict:
    """The adapter, an empty one for None and {}. UserError, which starts with `name`, for anything
    else."""
    if given is None or given == {}:
        return {"layers": {}}
    if isinstance(given, list | tuple):
        raise UserError(
            f"{name}: got a {type(given).__name__} where an adapter belongs; write"
            f" {name}(*adapters)"
        )
    if _is_params(given):
        raise UserError(
            f"{name}: got parameters where an adapter belongs; the adapter comes before the"
            " parameters"
        )
    if not isinstance(given, dict) or "layers" not in given:
        raise UserError(
            f"{name}: got a {type(given).__name__}; expected an adapter, a dict with 'layers'"
        )
    return given


def as_params(name: str, given: Any) -> dict:
    """The parameters. UserError, which starts with `name`, for anything else, and for unstacked
    layers."""
    if not _is_params(given):
        what = (
            "an adapter"
            if isinstance(given, dict) and "layers" in given
            else f"a {type(given).__name__}"
        )
        raise UserError(f"{name}: got {what} where the model's parameters belong")
    if not isinstance(given["layers"], dict):
        raise UserError(
            f"{name}: the parameters' layers are unstacked; give the stacked ones, as they are"
            " loaded"
        )
    return given


def on_weights(name: str, adapter: Any, params: Any) -> tuple[dict, dict]:
    """(adapter, parameters) that belong together. UserError for swapped ones, other things, and
    unstacked layers."""
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
    for path, _ in named_layers(adapter):
        _, part, module = path.split("/")
        if module not in params["layers"].get(part, {}):
            raise UserError(f"{name}: {path} is no weight of these parameters")
    return adapter, params


def weight(params: dict, path: str) -> Any:
    """The weight at a layer's path, quantised or not."""
    _, part, module = path.split("/")
    return params["layers"][part][module]


def _is_params(x: Any) -> bool:
    return isinstance(x, dict) and "layers" in x and "embed" in x
