"""Plain XLA attention under any mask: exact for packed rows, branches and caches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lfl_jax.core.types import Key

MASKED = -1e30  # finite: a row that may see nothing stays free of NaN


def reference(
    q: Float[Array, "B T H P"],
    k: Float[Array, "B S K P"],
    v: Float[Array, "B S K P"],
    mask: Bool[Array, "B T S"],
    *,
    dropout: float = 0.0,
    key: Key | None = None,
) -> Float[Array, "B T H P"]:
    """softmax(q k^T / sqrt(P)) v with H // K query heads to a key head, softmax in float32.

    The query heads of a key head are folded into the rows of one product per key head.
    """
    (b, t, h, p), n_kv = q.shape, k.shape[2]
    # (B, K, G · T, P): all queries that meet the same keys are rows of one product
    rows = q.reshape(b, t, n_kv, h // n_kv, p).transpose(0, 2, 3, 1, 4).reshape(b, n_kv, -1, p)
    scores = jnp.einsum("bkrp,bskp->bkrs", rows * (p**-0.5), k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores.reshape(b, n_kv, h // n_kv, t, -1), MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype).reshape(b, n_kv, -1, k.shape[1])

    if key is not None and dropout > 0.0:
        keep = jax.random.bernoulli(key, 1.0 - dropout, weights.shape)
        weights = jnp.where(keep, weights / (1.0 - dropout), jnp.zeros((), weights.dtype))

    out = jnp.einsum("bkrs,bskp->bkrp", weights, v)
    return out.reshape(b, n_kv, h // n_kv, t, p).transpose(0, 3, 1, 2, 4).reshape(b, t, h, p)
