"""From the modules of a PEFT folder to our stacked layers, and back to one layer of a stack."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.peft.places import Place, get_path

Read = Callable[[str], np.ndarray]  # a tensor by its key, float32, finite


def rows_of(names: list[str], places: dict[str, Place]) -> dict[str, dict[int, str]]:
    """{"attn/q": {layer: module}} of the adapted modules."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        place = places[name]
        found.setdefault(place.path.removeprefix("layers/"), {})[place.layer] = name
    return found


def layer_tree(layer: Callable[[str], Any]) -> dict:
    """{"layers": {"attn": {"q": layer("attn/q"), ...}, "mlp": ...}}."""
    built: dict = {"layers": {"attn": {}, "mlp": {}}}
    for path in MODULES:
        part, name = path.split("/")
        built["layers"][part][name] = layer(path)
    return built


def layer_at(adapter: dict, place: Place) -> Any:
    """One module's layer with what it needs of the shared arrays; None where the stacked weight has
    none."""
    stacked = get_path(adapter, place.path) or None
    layer = jax.tree.map(lambda x: x[place.layer], stacked)
    return layer and layer.with_shared(adapter.get("shared"))


def short_names(names: list[str], places: dict[str, Place]) -> dict[str, str]:
    """{module: what the config calls it}: its last name where every layer has one, else its whole
    path."""
    layers = max(place.layer for place in places.values() if place.layer is not None) + 1
    adapted = Counter(places[name].path for name in names)
    return {
        name: name.split(".")[-1] if adapted[places[name].path] == layers else name
        for name in names
    }
