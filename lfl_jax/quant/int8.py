"""Int8 weights: symmetric around 0, one scale per output unit.

The weight half of LLM.int8 (arXiv 2208.07339). 8 bits a parameter and 32 per output unit. The scale
covers all inputs of a unit, so one outlier coarsens the whole unit; NF4 has blocks along the inputs
instead.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lfl_jax.core.pytree import Node
from lfl_jax.core.spec import ArraySpec

LARGEST = 127  # -128 is not used: the codes are symmetric


@struct.dataclass
class Int8(Node):
    """A weight (.., I, O) as codes (.., I, O) int8 and scale (.., O) float32.

    dtype: of the dequantised weight.
    """

    codes: Any
    scale: Any
    dtype: Any = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.codes.shape


@partial(jax.jit, static_argnames="dtype")
def quantise(w: Float[Array, "*L I O"], dtype: DTypeLike | None = None) -> Int8:
    """round(w / scale), half to even, with scale = absmax / 127 over each output unit.

    dtype: what it will be dequantised to, by default w's.
    """
    # a stack is quantised layer by layer, so that one layer is in float32 at a time
    one = partial(_quantise, dtype=jnp.dtype(dtype or w.dtype))
    return one(w) if w.ndim == 2 else jax.lax.map(one, w)


def dequantise(q: Int8, dtype: DTypeLike | None = None) -> Float[Array, "*L I O"]:
    """code · scale in float32, cast once: to dtype, by default q's."""
    return (q.codes.astype(jnp.float32) * q.scale[..., None, :]).astype(dtype or q.dtype)


def matmul(x: Float[Array, "*N I"], q: Int8) -> Float[Array, "*N O"]:
    """x dequantise(q): (x codes) · scale.

    The codes are exact in x's dtype, and GPUs and TPUs convert them on their way into the product,
    so that no dequantised W is ever written.
    """
    # one scale a column: it comes out of the sum over I
    y = jnp.dot(x, q.codes.astype(x.dtype), preferred_element_type=jnp.float32)
    return (y * q.scale).astype(x.dtype)


def matmul_transposed(dy: Float[Array, "*N O"], q: Int8) -> Float[Array, "*N I"]:
    """dy dequantise(q)^T: (dy · scale) codes^T."""
    # the scale belongs to the contracted axis: it is on dy
    scaled, codes = (dy * q.scale).astype(dy.dtype), q.codes.astype(dy.dtype)
    return jax.lax.dot_general(scaled, codes, (((dy.ndim - 1,), (1,)), ((), ())))


def specs(weight: ArraySpec) -> Int8:
    """Specs in place of a weight's, sharded as the weight is; they initialise to zeros."""
    *stack, _, columns = weight.shape
    *stack_axes, _, out_axis = weight.axes
    return Int8(
        codes=ArraySpec(weight.shape, weight.axes, initializers.zeros, jnp.int8),
        scale=ArraySpec(
            (*stack, columns), (*stack_axes, out_axis), initializers.zeros, jnp.float32
        ),
        dtype=jnp.dtype(weight.dtype),
    )


def _quantise(w: Float[Array, "I O"], dtype: DTypeLike) -> Int8:
    w = w.astype(jnp.float32)
    absmax = jnp.max(jnp.abs(w), axis=0)
    # a unit of zeros, or of numbers too small for float32, has codes 0 and no division by 0
    scale = jnp.maximum(absmax / LARGEST, jnp.finfo(jnp.float32).tiny)
    codes = jnp.clip(jnp.round(w / scale), -LARGEST, LARGEST)
    return Int8(codes.astype(jnp.int8), scale, dtype)
