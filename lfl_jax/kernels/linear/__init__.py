"""x W for a weight that is an array, quantised or stored transposed."""

from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.core.transposed import Transposed
from lfl_jax.core.types import Weight
from lfl_jax.kernels.linear.output_rows import times_output_rows
from lfl_jax.kernels.linear.reference import matmul


def linear(x: Float[Array, "*N I"], w: Weight) -> Float[Array, "*N O"]:
    """x W in x's dtype; a quantised W is a constant."""
    if isinstance(w, Transposed):
        return times_output_rows(x, w.rows)
    return quant.matmul(x, w) if quant.is_quantised(w) else matmul(x, w.astype(x.dtype))


def linear_transposed(dy: Float[Array, "*N O"], w: Weight) -> Float[Array, "*N I"]:
    """dy W^T in dy's dtype."""
    if isinstance(w, Transposed):
        return dy @ w.rows.astype(dy.dtype)
    return quant.matmul_transposed(dy, w) if quant.is_quantised(w) else dy @ w.astype(dy.dtype).T
