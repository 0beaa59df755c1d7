"""Names for what travels between functions and is more than one array.

Letters of the shapes: B batch, T time, M adapters of a mix, I and O the inputs and outputs of a
weight, L layers.
"""

from typing import Any, TypeAlias

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lfl_jax.core.pytree import PyTree
from lfl_jax.core.transposed import Transposed
from lfl_jax.quant.linear import Quantised

# Nested dicts of arrays; or of specs, shapes, shardings or masks, one for each array.
Params: TypeAlias = dict[str, Any]
AdapterTree: TypeAlias = dict[str, Any]

# A linear weight (I, O), or stacked (L, I, O): an array, or in its place quantised, or transposed.
Weight: TypeAlias = jax.Array | np.ndarray | jax.ShapeDtypeStruct | Quantised | Transposed

# A random key; None where nothing is random.
Key: TypeAlias = PRNGKeyArray

# How much each example or token uses of each adapter of a mix: factors, or the index of the one
# adapter that it uses, -1 being the base.
Routing: TypeAlias = (
    Float[Array, "B M"] | Float[Array, "B T M"] | Int[Array, " B"] | Int[Array, "B T"]
)

DType: TypeAlias = DTypeLike

# One packed batch by name: tokens, segment_ids, positions, targets' weights and more, (B, T) each.
Batch: TypeAlias = dict[str, jax.Array | np.ndarray]

__all__ = ["AdapterTree", "Batch", "DType", "Key", "Params", "PyTree", "Routing", "Weight"]
