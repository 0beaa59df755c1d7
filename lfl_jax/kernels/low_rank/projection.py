"""The fused low-rank projection: one entry, one derivative, several implementations."""

from functools import partial
from typing import NamedTuple, TypeAlias

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.core.types import Weight
from lfl_jax.errors import UserError
from lfl_jax.kernels.low_rank.reference import Implementation, Implementations, routed
from lfl_jax.kernels.low_rank.selection import IMPLEMENTATIONS, choose

RowRouting: TypeAlias = Float[Array, "N R"] | None


def low_rank_projection(
    x: Float[Array, "_N _I"],
    w: Weight,
    a: Float[Array, "_I2 _R"],
    b: Float[Array, "_R2 _O"],
    row_routing: Float[Array, "_N2 _R3"] | None = None,
    *,
    implementation: str | Implementation | tuple[Implementation, Implementation] | None = None,
) -> Float[Array, "_N _O"]:
    """x W + ((x A) * routing) B, in x's dtype (bfloat16 or float32).

    w: W (I, O) as an array, `quant.NF4` or `quant.Int8`. It is frozen: a quantised one has no
    gradient, and an array's costs nothing unless somebody differentiates it, which no kernel is
    made for. row_routing: a factor per row and rank: scale, routing weight, or their product; None
    is all ones. implementation: a name of IMPLEMENTATIONS, an instance of one, or a pair (forward,
    backward) of instances; None asks the selection table, which names XLA unless a committed
    measurement shows a kernel to be faster.

    The derivative has dx, dA, dB and d routing. It saves x, x A and the operands, and never a
    dequantised W. UserError for shapes that do not fit, and for an unknown implementation.
    """
    _require_shapes(x, w, a, b, row_routing)
    implementations = _implementations(implementation, w, x.shape[0], a.shape[1])
    # cast outside of the derivative, so that masters in float32 get gradients in float32
    a, b, routing = (None if v is None else v.astype(x.dtype) for v in (a, b, row_routing))
    return _projection(implementations, x, w, a, b, routing)


def _implementations(
    implementation: str | Implementation | tuple[Implementation, Implementation] | None,
    w: Weight,
    rows: int,
    rank: int,
) -> Implementations:
    if implementation is None:
        return choose(w, rows, rank)
    if isinstance(implementation, tuple):
        return Implementations(*implementation)
    # a name of the table in `selection`, with its default options
    if isinstance(implementation, str):
        if implementation not in IMPLEMENTATIONS:
            raise UserError(
                f"implementation {implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}"
            )
        implementation = IMPLEMENTATIONS[implementation]()
    return Implementations(implementation, implementation)


def _require_shapes(
    x: Float[Array, "_N _I"],
    w: Weight,
    a: Float[Array, "_I2 _R"],
    b: Float[Array, "_R2 _O"],
    routing: Float[Array, "_N2 _R3"] | None,
) -> None:
    # x and B have all four sizes; the other operands have to agree with them.
    (n, i), (r, o) = x.shape, b.shape
    actual = {"x": x.shape, "W": tuple(w.shape), "A": a.shape, "B": b.shape}
    expected = {"x": (n, i), "W": (i, o), "A": (i, r), "B": (r, o)}
    if routing is not None:
        actual["routing"], expected["routing"] = routing.shape, (n, r)
    if actual != expected:
        listed = ", ".join(f"{name} {shape}" for name, shape in actual.items())
        raise UserError(
            f"low_rank_projection got {listed}; expected x (N, I), W (I, O), A (I, R), B (R, O),"
            " routing (N, R)"
        )


class Saved(NamedTuple):
    """What the backward pass reads: the operands and h = x A."""

    x: Float[Array, "N I"]
    w: Weight
    a: Float[Array, "I R"]
    b: Float[Array, "R O"]
    routing: RowRouting
    h: Float[Array, "N R"]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _projection(
    implementations: Implementations,
    x: Float[Array, "N I"],
    w: Weight,
    a: Float[Array, "I R"],
    b: Float[Array, "R O"],
    routing: RowRouting,
) -> Float[Array, "N O"]:
    return implementations.forward.forward(x, w, a, b, routing)[0]


def _fwd(
    implementations: Implementations,
    x: Float[Array, "N I"],
    w: Weight,
    a: Float[Array, "I R"],
    b: Float[Array, "R O"],
    routing: RowRouting,
) -> tuple[Float[Array, "N O"], Saved]:
    y, h = implementations.forward.forward(x, w, a, b, routing)
    # named, so that remat saves x A and does not run the kernel again for it
    return y, Saved(x, w, a, b, routing, checkpoint_name(h, "shrink"))


def _bwd(
    implementations: Implementations, saved: Saved, dy: Float[Array, "N O"]
) -> tuple[
    Float[Array, "N I"],
    Float[Array, "I O"] | None,
    Float[Array, "I R"],
    Float[Array, "R O"],
    RowRouting,
]:
    """dx, dW, dA, dB and d routing of y = x W + (h * g) B with h = x A and routing g.

    With dh = dy B^T: dx = dy W^T + (dh * g) A^T, dA = x^T (dh * g), dB = (h * g)^T dy, dg = h * dh.
    """
    x, w, a, b, routing, h = saved
    dx, dh = implementations.backward.backward(dy, w, a, b, routing)
    # XLA transposes a left operand: the narrow one, and its result back.
    d_a = _rows_contracted(routed(dh, routing), x).T
    d_b = _rows_contracted(routed(h, routing), dy)
    d_routing = None if routing is None else h * dh
    # XLA removes this product where nobody differentiates W.
    d_w = None if quant.is_quantised(w) else _rows_contracted(x, dy).astype(w.dtype)
    return dx, d_w, d_a, d_b, d_routing


def _rows_contracted(left: Float[Array, "N J"], right: Float[Array, "N K"]) -> Float[Array, "J K"]:
    """left^T right."""
    return jax.lax.dot_general(left, right, (((0,), (0,)), ((), ())))


_projection.defvjp(_fwd, _bwd)
