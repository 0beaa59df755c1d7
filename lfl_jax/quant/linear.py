"""x W with a quantised W, as its format computes it.

A dequantised copy, if there is any, lives no longer than one product.
"""

import math
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lfl_jax.core import spec
from lfl_jax.core.pytree import PyTree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError
from lfl_jax.quant import int8, nf4
from lfl_jax.quant.int8 import Int8
from lfl_jax.quant.nf4 import NF4

Quantised = NF4 | Int8
# A format's name in configs and commands, and its module.
FORMATS: dict[str, ModuleType] = {"nf4": nf4, "int8": int8}


def is_quantised(x: PyTree) -> bool:
    """Whether x is a quantised weight; as `is_leaf`, it keeps tree maps from entering one."""
    return isinstance(x, Quantised)


def hold(form: str, weight: ArraySpec, w: Float[Array, "*L I O"], rules: Rules) -> Quantised:
    """The weight quantised to a format of FORMATS, on the mesh as its spec says."""
    # compiled with its output's sharding: no device holds the whole quantised weight
    shardings = spec.shardings(FORMATS[form].specs(weight), rules)
    return jax.jit(FORMATS[form].quantise, out_shardings=shardings)(w)


def dequantise(q: Quantised, dtype: DTypeLike | None = None) -> Float[Array, "*L I O"]:
    """The weight (.., I, O), in q's dtype unless another is given."""
    return _module(q).dequantise(q, dtype)


def dense(w: Quantised | Array | np.ndarray) -> Float[Array, "..."] | np.ndarray:
    """The array of a parameter, dequantised if it is quantised."""
    return dequantise(w) if is_quantised(w) else w


def require_dense(name: str, params: PyTree) -> None:
    """UserError, which starts with `name`, when any of the parameters is quantised."""
    quantised = [x for x in jax.tree.leaves(params, is_leaf=is_quantised) if is_quantised(x)]
    if quantised:
        raise UserError(
            f"{name}: {len(quantised)} of these weights are quantised, as"
            f" {type(quantised[0]).__name__}; load the model in float32 or bfloat16, or dequantise"
            ' it with adapters.merge(None, params, "bfloat16")'
        )


@jax.custom_vjp
def matmul(x: Float[Array, "*N I"], q: Quantised) -> Float[Array, "*N O"]:
    """x dequantise(q), computed in x's dtype.

    q is a constant: codes have no gradient, and absmax and scales get none. The backward pass reads
    q again, so that it saves only q, which is in memory anyway, and not x. This holds in a scan
    over layers. Differentiating layers written one after the other over NF4, the compiler may merge
    the two dequantisations, or do all of them first, and keep every W.
    """
    return _module(q).matmul(x, q)


def matmul_transposed(dy: Float[Array, "*N O"], q: Quantised) -> Float[Array, "*N I"]:
    """dy dequantise(q)^T, computed in dy's dtype."""
    return _module(q).matmul_transposed(dy, q)


matmul.defvjp(lambda x, q: (matmul(x, q), q), lambda q, dy: (matmul_transposed(dy, q), None))


def _module(q: Quantised) -> ModuleType:
    # by class, not by FORMATS' names: a weight does not know its format's name
    return {NF4: nf4, Int8: int8}[type(q)]


def nbytes(q: PyTree) -> int:
    """Bytes as stored, padding included, of a quantised weight, its specs, or a tree of either."""
    return sum(
        math.prod(x.shape) * jnp.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(q, is_leaf=spec.is_spec)
    )


def error(w: Float[Array, "*L I O"], q: Quantised) -> Float[Array, ""]:
    """||W - dequantise(q)||_F / ||W||_F, in float32."""
    # of the whole stack: layers with larger weights count for more
    w = w.astype(jnp.float32)
    return jnp.linalg.norm((w - dequantise(q, jnp.float32)).reshape(-1)) / jnp.linalg.norm(
        w.reshape(-1)
    )
