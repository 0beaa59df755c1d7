"""From the modules that a PEFT folder adapts to our stacked layers, and back to one layer."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Float32

from lfl_jax.adapters.mix import AdapterLayer
from lfl_jax.core.types import AdapterTree
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.peft.fields import Fields
from lfl_jax.io.peft.modules import Module, Modules, get_path

Read: TypeAlias = Callable[[str], np.ndarray]  # a tensor by its key, float32, finite
Shapes: TypeAlias = dict[str, tuple[int, ...]]  # {key: shape in PyTorch's order}


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A folder's config with the modules of the model, and the names of those that it adapts."""

    fields: Fields
    modules: Modules
    names: list[str]

    def rows(self) -> dict[str, dict[int, str]]:
        """{"attn/q": {layer: module}} of the adapted modules, for those that we stack."""
        rows: dict[str, dict[int, str]] = {}
        for name in self.names:
            module = self.modules[name]
            rows.setdefault(module.path.removeprefix("layers/"), {})[module.layer] = name
        return rows


@dataclasses.dataclass(frozen=True)
class Exported:
    """What a kind writes: fields of the config, tensors by key, and the adapted modules."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    names: list[str]


def layer_tree(layer: Callable[[str], AdapterLayer | None]) -> AdapterTree:
    """{"layers": {"attn": {"q": layer("attn/q"), ...}, "mlp": ...}}."""
    layers: dict[str, dict] = {"attn": {}, "mlp": {}}
    for path in MODULES:
        part, name = path.split("/")
        layers[part][name] = layer(path)
    return {"layers": layers}


def zeros(layers: int, *shape: int) -> Float32[np.ndarray, "L ..."]:
    """A stack to be filled: rows of layers that are not adapted stay 0."""
    return np.zeros((layers, *shape), np.float32)


def layer_at(adapter: AdapterTree, module: Module) -> AdapterLayer | None:
    """One module's layer with its part of the shared arrays; None where its stack has none."""
    stacked = get_path(adapter, module.path) or None
    # None is an empty tree to JAX: a weight without an adapter stays None.
    layer = jax.tree.map(lambda x: x[module.layer], stacked)
    return layer and layer.with_shared(adapter.get("shared"))


def short_names(names: list[str], modules: Modules) -> dict[str, str]:
    """{module: its name in the config}: the last part where every layer has one, else the path."""
    n_layers = max(module.layer for module in modules.values() if module.layer is not None) + 1
    adapted = Counter(modules[name].path for name in names)
    # A short name matches in every layer, so it may only stand for all of them.
    in_every_layer = {path for path, count in adapted.items() if count == n_layers}
    return {
        name: name.split(".")[-1] if modules[name].path in in_every_layer else name
        for name in names
    }
