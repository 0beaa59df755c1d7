"""The change of one weight (I, O) of one layer, with the weight itself: y = x W + x dW."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.io.hf_names import MODULES

# The linear weights of a layer, in the order in which they are computed with.
PATHS = tuple(f"layers/{module}" for module in MODULES)
NAME = "weight change"  # what messages begin with

Factors = tuple[Float[np.ndarray, "I R"], Float[np.ndarray, "R O"]]


@dataclasses.dataclass(frozen=True, eq=False)
class WeightChange:
    """The change of one weight (I, O) of one layer. Arrays are computed when asked for, not kept.

    path: of the weight's stack, "layers/attn/q". factors: a and b with dW = a b, the scale in a;
    None where dW is not known to be of low rank. Factors of rank 0 are a weight that nothing
    changed. stored_as: the dtype that the changed weight was rounded to; float32 for an adapter's.
    """

    path: str
    layer: int
    shape: tuple[int, int]
    factors: Factors | None
    read_change: Callable[[], np.ndarray]
    read_base: Callable[[], np.ndarray]
    stored_as: str = "float32"

    @property
    def name(self) -> str:
        """The path with the layer's number, "layers/3/attn/q"."""
        return unstacked_name(self.path, self.layer)

    def dense(self) -> Float[np.ndarray, "I O"]:
        """dW in float32. UserError for values that are not finite.

        Collective where arrays are sharded over processes, and so is `base`.
        """
        return finite(self.name, "change", self.read_change())

    def base(self) -> Float[np.ndarray, "I O"]:
        """W in float32, dequantised where it is quantised; UserError for one that is not finite."""
        return finite(self.name, "base", self.read_base())

    def is_zero(self) -> bool:
        """Whether dW is exactly zero, as a fresh adapter's is: it has no rank and no direction."""
        if self.factors is not None:
            return not all(factor.any() for factor in self.factors)
        return not self.dense().any()


def unstacked_name(path: str, layer: int) -> str:
    """A weight of one layer: ("layers/attn/q", 3) is "layers/3/attn/q"."""
    return path.replace("layers/", f"layers/{layer}/", 1)


def finite(name: str, what: str, x: np.ndarray) -> np.ndarray:
    """The array itself; UserError, which starts with `name`, where a value is not finite."""
    if not np.isfinite(x).all():
        raise UserError(f"{name}: its {what} has values that are not finite, so it has no spectrum")
    return x


def require_one_vocabulary(before: int, after: int) -> None:
    """UserError for models with embeddings of different length."""
    if before != after:
        raise UserError(
            f"{NAME}: the base has a vocabulary of {before} tokens, the tuned model one of"
            f" {after}; they are not of one model"
        )
