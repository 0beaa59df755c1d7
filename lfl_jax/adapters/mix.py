"""Several adapters at one weight: all see the same (x, y), and their changes add."""

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import LowRank
from lfl_jax.adapters.lora import LoRA
from lfl_jax.core.pytree import Node


@struct.dataclass
class Mix(Node):
    """Members at one weight, in the order of the routing weights."""

    layers: tuple[Any, ...]

    def with_shared(self, shared: Any) -> "Mix":
        """Every member with what it needs of the shared arrays."""
        return Mix(tuple(layer.with_shared(shared) for layer in self.layers))

    def bind(self, w: Any, original: Any = None) -> "Mix":
        """Every member bound to the weight."""
        return Mix(tuple(layer.bind(w, original) for layer in self.layers))

    def rebind(self, w: Any) -> "Mix":
        """Every member over another weight."""
        return Mix(tuple(layer.rebind(w) for layer in self.layers))

    def precompute_for_inference(self, w: Any) -> "Mix":
        """Every member with what stays the same computed."""
        return Mix(tuple(layer.precompute_for_inference(w) for layer in self.layers))

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """The sum of the members' dW."""
        return sum(layer.delta(w) for layer in self.layers)

    def scaled(self, factor: Any) -> "Mix":
        """Every member scaled."""
        return Mix(tuple(layer.scaled(factor) for layer in self.layers))


@struct.dataclass
class StackedFactors(Node):
    """A Mix for evaluation, of many low-rank members of one shape: their factors side by side, so
    that picking one for every row does not touch the rest.

    a (.., M, I, R), scale (.., M, R), b (.., M, R, O).
    """

    factors: LowRank

    @property
    def layers(self) -> tuple[LoRA, ...]:
        """The members."""
        a, scale, b = self.factors
        return tuple(
            LoRA(a[..., m, :, :], b[..., m, :, :], scale[..., m, :]) for m in range(scale.shape[-2])
        )

    def with_shared(self, shared: Any) -> "StackedFactors":
        """Itself: the factors hold all it needs."""
        return self

    def rebind(self, w: Any) -> "StackedFactors":
        """Itself: low-rank members read nothing off their weight."""
        return self

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """The sum of the members' dW."""
        return jnp.einsum("mir,mr,mro->io", *self.factors)

    def scaled(self, factor: Any) -> "StackedFactors":
        """Every member scaled."""
        return StackedFactors(self.factors._replace(scale=self.factors.scale * factor))


def members(layer: Any) -> tuple[Any, ...]:
    """The adapters at one weight: none, one, or a Mix's."""
    if layer is None:
        return ()
    return layer.layers if isinstance(layer, Mix | StackedFactors) else (layer,)


def count(layer: Any) -> int:
    """How many adapters are at one weight."""
    return (
        layer.factors.scale.shape[-2] if isinstance(layer, StackedFactors) else len(members(layer))
    )
