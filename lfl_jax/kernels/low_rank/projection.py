"""The fused low-rank projection: one entry, one derivative, several implementations."""

from functools import partial
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.errors import UserError
from lfl_jax.kernels.low_rank.reference import gated
from lfl_jax.kernels.low_rank.selection import IMPLEMENTATIONS, choose


def low_rank_projection(
    x: Float[Array, "N I"],
    w: Any,
    a: Float[Array, "I R"],
    b: Float[Array, "R O"],
    row_routing: Float[Array, "N R"] | None = None,
    *,
    implementation: Any = None,
) -> Float[Array, "N O"]:
    """x W + ((x A) * routing) B, in x's dtype (bfloat16 or float32), accumulated in float32 by the
    kernels.

    w: W (I, O) as an array, `quant.NF4` or `quant.Int8`. It is frozen: a quantised one has no
    gradient, and an array's costs nothing unless somebody differentiates it, which no kernel is
    made for.
    row_routing: a factor per row and rank: scale, mixture weights, routing, or a product of them;
    None is all ones.
    implementation: a name of IMPLEMENTATIONS, an instance of one, or a pair (forward, backward) of
    instances; None asks the selection table, which names XLA unless a committed measurement shows a
    kernel to be faster.

    The derivative has dx, dA, dB and d routing. It keeps x, x A and what is given, and never a
    dequantised W. Raises UserError for shapes that do not fit, and for an implementation that is
    not there.
    """
    _check(x, w, a, b, row_routing)
    passes = _passes(implementation, w, x.shape[0], a.shape[1])
    a, b, routing = (None if v is None else v.astype(x.dtype) for v in (a, b, row_routing))
    return _projection(passes, x, w, a, b, routing)


def _passes(implementation: Any, w: Any, rows: int, rank: int) -> tuple[Any, Any]:
    """The implementations of the two passes."""
    if implementation is None:
        return choose(w, rows, rank)
    if isinstance(implementation, str):
        if implementation not in IMPLEMENTATIONS:
            raise UserError(
                f"implementation {implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}"
            )
        implementation = IMPLEMENTATIONS[implementation]()
    return implementation if isinstance(implementation, tuple) else (implementation, implementation)


def _check(x: Any, w: Any, a: Any, b: Any, routing: Any) -> None:
    shapes = {"x": x.shape, "W": tuple(w.shape), "A": a.shape, "B": b.shape} | (
        {} if routing is None else {"routing": routing.shape}
    )
    (n, i), (r, o) = x.shape, b.shape
    wanted = {"x": (n, i), "W": (i, o), "A": (i, r), "B": (r, o)} | (
        {} if routing is None else {"routing": (n, r)}
    )
    if shapes != wanted:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise UserError(
            f"low_rank_projection got {given}; expected x (N, I), W (I, O), A (I, R), B (R, O),"
            " routing (N, R)"
        )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _projection(passes: tuple[Any, Any], x: Any, w: Any, a: Any, b: Any, routing: Any) -> Any:
    return passes[0].forward(x, w, a, b, routing)[0]


def _fwd(passes: tuple[Any, Any], x: Any, w: Any, a: Any, b: Any, routing: Any) -> tuple[Any, Any]:
    y, h = passes[0].forward(x, w, a, b, routing)
    return y, (x, w, a, b, routing, checkpoint_name(h, "shrink"))


def _bwd(passes: tuple[Any, Any], residuals: Any, dy: Any) -> tuple[Any, ...]:
    x, w, a, b, routing, h = residuals
    dx, back = passes[1].backward(dy, w, a, b, routing)
    d_a = _rows_contracted(
        gated(back, routing), x
    ).T  # the narrow side is the one that is transposed
    d_b = _rows_contracted(gated(h, routing), dy)
    d_routing = None if routing is None else h * back
    d_w = None if quant.is_quantised(w) else _rows_contracted(x, dy).astype(w.dtype)
    return dx, d_w, d_a, d_b, d_routing


def _rows_contracted(left: Any, right: Any) -> Any:
    """left^T right."""
    return jax.lax.dot_general(left, right, (((0,), (0,)), ((), ())))


_projection.defvjp(_fwd, _bwd)
