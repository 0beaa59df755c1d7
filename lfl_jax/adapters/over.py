"""A new adapter over a first one that stays as it was: one tree of both, and which parts of it are
whose.

At every weight the first's members come before the new one's (`compose.add`), so how many the first
has there says where the new one's begin.
"""

from typing import Any

import jax
import numpy as np

from lfl_jax.adapters.compose import add, zip_layers
from lfl_jax.adapters.mix import Mix, members
from lfl_jax.adapters.trees import named_layers
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec


def frozen_patterns(first: dict, both: dict) -> tuple[str, ...]:
    """Patterns of the paths "adapter/..." of every leaf that is the first's, for
    `state.trainable_mask`."""
    below, patterns = dict(named_layers(first)), []
    for path, layer in named_layers(both):
        count = len(members(below.get(path)))
        if count == len(members(layer)):
            patterns.append(rf"adapter/{path}/.*")
        else:
            patterns += [rf"adapter/{path}/layers/{m}/.*" for m in range(count)]
    return tuple(patterns)


def without_first(both: dict, first: dict) -> dict:
    """The new adapter alone."""

    def rest(path: str, layers: tuple[Any, ...]) -> Any:
        both_here, first_here = layers
        found = members(both_here)[len(members(first_here)) :]
        return (found[0] if len(found) == 1 else Mix(found)) if found else None

    return zip_layers("without_first", rest, both, first)


def specs_over(first: dict, own: dict) -> dict:
    """Specs of both, from the first's arrays and the new one's specs."""
    layers = add({"layers": jax.tree.map(_spec, first["layers"])}, {"layers": own["layers"]})
    shared = own.get("shared") or jax.tree.map(_spec, first.get("shared", {}))
    return layers | ({"shared": shared} if shared else {})


def _spec(x: Any) -> ArraySpec:
    # The kind that would know the axes of its leaves has no config here; an adapter is small enough
    # for every device.
    return ArraySpec(
        x.shape, ("layers", *("activation",) * (x.ndim - 1)), spec.Constant(np.asarray(x)), x.dtype
    )
