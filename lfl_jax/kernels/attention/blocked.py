"""Causal attention in blocks of queries, with its own backward pass (after FlashAttention, arXiv
2205.14135).

A block of queries meets only the keys up to its own end, which saves almost half of the scores. The
backward pass recomputes the probabilities of a block from the row's log-sum-exp, so no (T, S) array
outlives its block.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from lfl_jax.kernels.attention.reference import MASKED

BLOCK = 128  # queries


def blocked(
    q: Float[Array, "B T H P"],
    k: Float[Array, "B T K P"],
    v: Float[Array, "B T K P"],
    mask: Bool[Array, "B T T"],
) -> Float[Array, "B T H P"]:
    """Same value as `reference` under a causal mask; the H // K query heads of a key head share its
    products."""
    (b, t, h, p), n_kv = q.shape, k.shape[2]
    rows = q.reshape(b, t, n_kv, h // n_kv, p).transpose(0, 2, 3, 1, 4)
    out = _attend(rows, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), mask)
    return out.transpose(0, 3, 1, 2, 4).reshape(b, t, h, p)


@jax.custom_vjp
def _attend(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """q (B, K, G, T, P), k and v (B, K, T, P) -> (B, K, G, T, P)."""
    return _fwd(q, k, v, mask)[0]


def _blocks(t: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, t)) for start in range(0, t, BLOCK)]


def _product(a: Any, b: Any, axis_a: int, axis_b: int) -> Any:
    """Batched over (B, K), float32 out."""
    dims = (((axis_a,), (axis_b,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _rows(x: Any, start: int, end: int) -> Any:
    """A block of queries of all G heads as rows: (B, K, G * (end - start), P)."""
    block = x[:, :, :, start:end]
    return block.reshape(*x.shape[:2], -1, x.shape[-1])


def _scores(q: Any, k: Any, mask: Any, start: int, end: int) -> Any:
    """Masked scores (B, K, G, end - start, end) of a block."""
    b, n_kv, g, _, p = q.shape
    scores = _product(_rows(q, start, end) * (p**-0.5), k[:, :, :end], 3, 3)
    return jnp.where(
        mask[:, None, None, start:end, :end], scores.reshape(b, n_kv, g, end - start, end), MASKED
    )


def _fwd(q: Any, k: Any, v: Any, mask: Any) -> tuple[Any, tuple[Any, ...]]:
    outs, sums = [], []
    for start, end in _blocks(q.shape[3]):
        scores = _scores(q, k, mask, start, end)
        lse = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - lse).astype(v.dtype)
        flat = weights.reshape(*weights.shape[:2], -1, end)
        outs.append(
            _product(flat, v[:, :, :end], 3, 2).reshape(*weights.shape[:4], -1).astype(q.dtype)
        )
        sums.append(lse)
    out, lse = (checkpoint_name(jnp.concatenate(x, axis=3), "attention") for x in (outs, sums))
    return out, (q, k, v, mask, out, lse)


def _bwd(residuals: tuple[Any, ...], d_out: Any) -> tuple[Any, Any, Any, None]:
    q, k, v, mask, out, lse = residuals
    along = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    dq, dk, dv = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    scale = q.shape[-1] ** -0.5
    for start, end in _blocks(q.shape[3]):
        weights = jnp.exp(_scores(q, k, mask, start, end) - lse[:, :, :, start:end])
        rows, d_rows = _rows(q, start, end), _rows(d_out, start, end)
        d_weights = _product(d_rows, v[:, :, :end], 3, 3).reshape(weights.shape)
        d_scores = (weights * (d_weights - along[:, :, :, start:end])).astype(q.dtype)
        flat, d_flat = (
            x.reshape(*x.shape[:2], -1, end) for x in (weights.astype(q.dtype), d_scores)
        )
        dq.append((_product(d_flat, k[:, :, :end], 3, 2) * scale).reshape(*weights.shape[:4], -1))
        # The narrow side first: XLA transposes the left operand.
        dk = dk.at[:, :, :end].add(_product(rows, d_flat, 2, 2).swapaxes(2, 3) * scale)
        dv = dv.at[:, :, :end].add(_product(d_rows, flat, 2, 2).swapaxes(2, 3))
    return jnp.concatenate(dq, axis=3).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_fwd, _bwd)
