"""Grouped-query attention under an explicit mask."""

from typing import Any

from jaxtyping import Array, Bool, Float

from lfl_jax.kernels.attention.blocked import blocked
from lfl_jax.kernels.attention.reference import reference


def attention(
    q: Float[Array, "B T H P"],
    k: Float[Array, "B S K P"],
    v: Float[Array, "B S K P"],
    mask: Bool[Array, "B T S"],
    *,
    dropout: float = 0.0,
    key: Any = None,
) -> Float[Array, "B T H P"]:
    """softmax(q k^T / sqrt(P)) v. Without a cache (T = S) the mask must be causal: keys after a query are not computed.

    Attention dropout and cached keys take the plain form.
    """
    if q.shape[1] != k.shape[1] or (key is not None and dropout > 0.0):
        return reference(q, k, v, mask, dropout=dropout, key=key)
    return blocked(q, k, v, mask)
