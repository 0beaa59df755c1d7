"""A second adapter, trained over a frozen first one: the tree of both, and which part is whose.

At every weight the first adapter's members come before the second's, as `compose.add` orders them.
So the number of members that the first has there says where the second's begin.
"""

from collections.abc import Sequence

import jax
import numpy as np

from lfl_jax.adapters.adapter_tree import as_layer, named_layers
from lfl_jax.adapters.compose import add, zip_layers
from lfl_jax.adapters.mix import AdapterLayer, members
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import AdapterTree


def frozen_patterns(first: AdapterTree, both: AdapterTree) -> tuple[str, ...]:
    """Patterns that match the paths of the first's leaves, as `state.trainable_mask` takes them."""
    # What the first's layers share may be trained, too. Two adapters of one tree share one such
    # array or none, so that none of this is the second's.
    first_layers = dict(named_layers(first))
    patterns = ["adapter/shared/.*"] if "shared" in first else []
    for path, layer in named_layers(both):
        count = len(members(first_layers.get(path)))
        if count == len(members(layer)):
            patterns.append(rf"adapter/{path}/.*")
        else:
            patterns += [rf"adapter/{path}/layers/{m}/.*" for m in range(count)]
    return tuple(patterns)


def without_first(both: AdapterTree, first: AdapterTree) -> AdapterTree:
    """The second adapter alone."""

    def second(path: str, layers: Sequence[AdapterLayer | None]) -> AdapterLayer | None:
        layer, first_layer = layers
        return as_layer(members(layer)[len(members(first_layer)) :])

    return zip_layers("without_first", second, both, first)


def specs_with_first(first: AdapterTree, second_specs: AdapterTree) -> AdapterTree:
    """Specs of both, from the first's arrays and the second's specs."""
    first_specs = jax.tree.map(_spec, {"layers": first["layers"]})
    both = add(first_specs, {"layers": second_specs["layers"]})
    shared = second_specs.get("shared") or jax.tree.map(_spec, first.get("shared", {}))
    return both | ({"shared": shared} if shared else {})


def _spec(x: jax.Array | np.ndarray) -> ArraySpec:
    # An array does not say what its axes mean, and the config that would is another run's. So the
    # first adapter, which is small, is on every device.
    axes = ("layers", *("activation",) * (x.ndim - 1))
    return ArraySpec(x.shape, axes, spec.Constant(np.asarray(x)), x.dtype)
