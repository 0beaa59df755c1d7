"""Several adapters at one weight: all see the same (x, y), and their changes add."""

from typing import Any

from flax import struct
from jaxtyping import Array, Float


@struct.dataclass
class Mix:
    """Members at one weight, in the order of the gate's columns."""

    layers: tuple[Any, ...]

    def bind(self, w: Float[Array, "I O"]) -> "Mix":
        """Bind every member to the weight."""
        return Mix(tuple(layer.bind(w) for layer in self.layers))

    def delta(self, w: Float[Array, "I O"]) -> Float[Array, "I O"]:
        """The sum of the members' dW."""
        return sum(layer.delta(w) for layer in self.layers)

    def scaled(self, factor: Any) -> "Mix":
        """Every member scaled."""
        return Mix(tuple(layer.scaled(factor) for layer in self.layers))

    def effective_size(self) -> Any:
        """The sum over members."""
        return sum(layer.effective_size() for layer in self.layers)


def members(layer: Any) -> tuple[Any, ...]:
    """The adapters at one weight: none, one, or a Mix's."""
    if layer is None:
        return ()
    return layer.layers if isinstance(layer, Mix) else (layer,)
