"""x W for a W of which an output unit is a row: an embedding as the head, or a decoder's weights.

A CPU multiplies few tokens by many weights fastest when the weights are the left operand: on two
cores of an AMD EPYC (AVX2), SmolLM2-135M's head takes 0.66 of the CPU seconds at 8 tokens, 0.75 at
16 and 0.97 at 32, its down projection 0.6, 0.6 and 0.7 of those of x W (jax 0.10.2).
"""

import math

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lfl_jax.core.sharding import platform

FEW = 32  # tokens, up to which the weights are the left operand


def times_output_rows(
    x: Float[Array, "*N I"], rows: Float[Array, "O I"], dtype: DTypeLike | None = None
) -> Float[Array, "*N O"]:
    """x rows^T, computed in x's dtype and returned in `dtype`, by default x's."""
    rows = rows.astype(x.dtype)
    if math.prod(x.shape[:-1]) > FEW or platform(None) != "cpu":
        contract = (((x.ndim - 1,), (1,)), ((), ()))
        return jax.lax.dot_general(x, rows, contract, preferred_element_type=dtype)

    flat = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot_general(rows, flat, (((1,), (1,)), ((), ())), preferred_element_type=dtype)
    # without the barrier XLA folds the transposition into the product, and swaps the operands back
    return jax.lax.optimization_barrier(y).T.reshape(*x.shape[:-1], -1)
