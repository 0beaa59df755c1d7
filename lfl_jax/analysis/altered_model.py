"""A model whose change was altered, and the weights that a change is in."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Shaped

from lfl_jax import quant
from lfl_jax.adapters import adapter_tree
from lfl_jax.adapters.extract import changed_paths
from lfl_jax.analysis import weight_changes
from lfl_jax.core import tree
from lfl_jax.core.types import Params
from lfl_jax.model import Model

NAME = "intervention"
# Codes of a quantised weight are leaves, too, which never train.
Leaf: TypeAlias = Shaped[Array, "..."]


class Altered(NamedTuple):
    """An altered model, and what is to be recorded of how it was altered."""

    model: Model
    facts: Mapping[str, float]


def adapted_paths(model: Model) -> list[str]:
    """The weights with an adapter, "layers/attn/q"."""
    return [path for path, _ in adapter_tree.named_layers(model.adapter)] if model.adapter else []


def trained_paths(base: Model, tuned: Model) -> list[str]:
    """All parameters that differ from the base's; UserError for models of other shapes."""
    return changed_paths(NAME, tuned.params, base.params)


def trained_weights(base: Model, tuned: Model) -> list[str]:
    """The linear weights among them."""
    return [path for path in trained_paths(base, tuned) if path in weight_changes.PATHS]


def leaf(params: Params, path: str) -> Leaf:
    """The parameter of a path."""
    for name in path.split("/"):
        params = params[name]
    return params


def leaves(params: Params, paths: Sequence[str], like: Params) -> dict[str, Leaf]:
    """{path: the parameter, in the dtype that another tree has there}."""
    return {path: leaf(params, path).astype(leaf(like, path).dtype) for path in paths}


def with_leaves(params: Params, replaced: Mapping[str, Leaf]) -> Params:
    """The parameters with these in place of their own."""
    replace = lambda path, x: replaced.get(tree.name(path), x)  # noqa: E731
    return jax.tree_util.tree_map_with_path(replace, params, is_leaf=quant.is_quantised)
