"""Several adapters at one weight: all see the same (x, y), and their changes add."""

from typing import Any, TypeAlias

import jax.numpy as jnp
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.lora import LoRA
from lfl_jax.core.pytree import Node
from lfl_jax.core.types import Params, Weight


@struct.dataclass
class Mix(Node):
    """Adapters of one weight, its members, in the order of the routing weights."""

    # kinds, each with leaves (L, ..) or of one layer; its name is in the paths of saved files
    layers: tuple[Any, ...]

    def with_shared(self, shared: Params | None) -> "Mix":
        """Every member with what it needs of the shared arrays."""
        return Mix(tuple(layer.with_shared(shared) for layer in self.layers))

    def bind(self, w: Weight, original: Weight | None = None) -> "Mix":
        """Every member bound to the weight."""
        return Mix(tuple(layer.bind(w, original) for layer in self.layers))

    def rebind(self, w: Weight) -> "Mix":
        """Every member over another weight."""
        return Mix(tuple(layer.rebind(w) for layer in self.layers))

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """The sum of the members' dW."""
        return sum(layer.delta(w) for layer in self.layers)

    def scaled(self, factor: ArrayLike) -> "Mix":
        """Every member scaled."""
        return Mix(tuple(layer.scaled(factor) for layer in self.layers))


@struct.dataclass
class StackedFactors(Node):
    """The factors of many low-rank members of one shape, for evaluation.

    a (.., M, I, R), scale (.., M, R), b (.., M, R, O). Picking one member for every row reads that
    member's factors only.
    """

    factors: LowRank

    @property
    def layers(self) -> tuple[LoRA, ...]:
        """The members, one after the other."""
        a, scale, b = self.factors
        return tuple(
            LoRA(a[..., m, :, :], b[..., m, :, :], scale[..., m, :]) for m in range(scale.shape[-2])
        )

    def with_shared(self, shared: Params | None) -> "StackedFactors":
        """Itself: VeRA's shared A and B are multiplied in already."""
        return self

    def rebind(self, w: Weight) -> "StackedFactors":
        """Itself: low-rank members read nothing off their weight."""
        return self

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """The sum of the members' dW."""
        # sum over members m and ranks r of A scale B
        return jnp.einsum("mir,mr,mro->io", *self.factors)

    def scaled(self, factor: ArrayLike) -> "StackedFactors":
        """Every member scaled."""
        return StackedFactors(self.factors._replace(scale=self.factors.scale * factor))


# What an adapter tree has at a weight, where it has anything.
AdapterLayer: TypeAlias = Kind | Mix | StackedFactors


def members(layer: AdapterLayer | None) -> tuple[Kind, ...]:
    """The adapters at one weight: none, one, or all of a mix."""
    if layer is None:
        return ()
    return layer.layers if isinstance(layer, Mix | StackedFactors) else (layer,)


def count(layer: AdapterLayer | None) -> int:
    """How many adapters there are at one weight."""
    if isinstance(layer, StackedFactors):
        return layer.factors.scale.shape[-2]
    return len(members(layer))
