"""x W for a weight held as an array or quantised."""

from typing import Any

from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.kernels.linear.reference import matmul


def linear(x: Float[Array, "*N I"], w: Any) -> Float[Array, "*N O"]:
    """x W in x's dtype; a quantised W is a constant."""
    return quant.matmul(x, w) if quant.is_quantised(w) else matmul(x, w.astype(x.dtype))
