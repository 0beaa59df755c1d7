"""x W over all leading axes of x, with its own backward pass.

Autodiff writes dW as (dy^T x)^T. XLA then copies the wide dy transposed, and on CPU fuses whatever
made dy into that strided copy, which costs as much as the product. Here dW = x^T dy takes the
narrower side first, so that only it is
transposed: x for a wide output, dy for a narrow one (the shrink of a low-rank adapter).
"""

from typing import Any

import jax
from jaxtyping import Array, Float


@jax.custom_vjp
def matmul(x: Float[Array, "*N I"], w: Float[Array, "I O"]) -> Float[Array, "*N O"]:
    """x W; differentiating it needs x and w, and dW is computed only if somebody asks for it."""
    return x @ w


def _fwd(x: Any, w: Any) -> tuple[Any, tuple[Any, Any]]:
    return x @ w, (x, w)


def _bwd(residuals: tuple[Any, Any], dy: Any) -> tuple[Any, Any]:
    x, w = residuals
    rows = tuple(range(x.ndim - 1))
    dx = jax.lax.dot_general(dy, w, (((dy.ndim - 1,), (1,)), ((), ())))
    if x.shape[-1] <= dy.shape[-1]:
        dw = jax.lax.dot_general(x, dy, ((rows, rows), ((), ())))
    else:
        dw = jax.lax.dot_general(dy, x, ((rows, rows), ((), ()))).T
    return dx, dw.astype(w.dtype)


matmul.defvjp(_fwd, _bwd)
