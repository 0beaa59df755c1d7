"""x W over all leading axes of x, with its own backward pass.

Autodiff writes dW as (dy^T x)^T. XLA then copies the wide dy transposed, and on CPU fuses whatever
made dy into that strided copy, which costs as much as the product. Here dW = x^T dy takes the
narrower of the two first, so that only it is transposed: x for a wide output, dy for a narrow one
(the shrink of a low-rank adapter).
"""

from typing import TypeAlias

import jax
from jaxtyping import Array, Float

Saved: TypeAlias = tuple[Float[Array, "*N I"], Float[Array, "I O"]]


@jax.custom_vjp
def matmul(x: Float[Array, "*N I"], w: Float[Array, "I O"]) -> Float[Array, "*N O"]:
    """x W; differentiating it needs x and w, and dW is computed only if somebody asks for it."""
    return x @ w


def _fwd(x: Float[Array, "*N I"], w: Float[Array, "I O"]) -> tuple[Float[Array, "*N O"], Saved]:
    return x @ w, (x, w)


def _bwd(
    saved: Saved, dy: Float[Array, "*N O"]
) -> tuple[Float[Array, "*N I"], Float[Array, "I O"]]:
    """dx = dy W^T and dW = x^T dy, contracted over all leading axes."""
    x, w = saved
    rows = tuple(range(x.ndim - 1))
    dx = jax.lax.dot_general(dy, w, (((dy.ndim - 1,), (1,)), ((), ())))
    # the left operand is the one that XLA transposes: the narrower of the two
    if x.shape[-1] <= dy.shape[-1]:
        dw = jax.lax.dot_general(x, dy, ((rows, rows), ((), ())))
    else:
        dw = jax.lax.dot_general(dy, x, ((rows, rows), ((), ()))).T
    return dx, dw.astype(w.dtype)


matmul.defvjp(_fwd, _bwd)
