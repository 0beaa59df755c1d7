"""Causal attention in blocks of queries, with its own backward pass.

After FlashAttention (arXiv 2205.14135). A block of queries meets only the keys up to its own end,
which saves almost half of the scores. The backward pass recomputes the probabilities of a block
from the row's log-sum-exp, so no (T, S) array outlives its block.

Letters: B rows, K key heads, G query heads to a key head, T tokens, Q queries of a block and S keys
up to its end, P head dim.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from lfl_jax.kernels.attention.reference import MASKED

BLOCK = 128  # queries

# Queries, or outputs, and keys, or values, with the heads in front of the tokens.
Queries: TypeAlias = Float[Array, "B K G T P"]
Keys: TypeAlias = Float[Array, "B K T P"]
Mask: TypeAlias = Bool[Array, "B T T"]


def blocked(
    q: Float[Array, "B T H P"],
    k: Float[Array, "B T K P"],
    v: Float[Array, "B T K P"],
    mask: Bool[Array, "B T T"],
) -> Float[Array, "B T H P"]:
    """Same value as `reference` under a causal mask.

    The H // K query heads of a key head share its products.
    """
    (b, t, h, p), n_kv = q.shape, k.shape[2]
    grouped = q.reshape(b, t, n_kv, h // n_kv, p).transpose(0, 2, 3, 1, 4)
    out = _attend(grouped, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), mask)
    return out.transpose(0, 3, 1, 2, 4).reshape(b, t, h, p)


class Saved(NamedTuple):
    """What the backward pass reads: the operands, the output, and log-sum-exp of every row."""

    q: Queries
    k: Keys
    v: Keys
    mask: Mask
    out: Queries
    lse: Float[Array, "B K G T 1"]


@jax.custom_vjp
def _attend(q: Queries, k: Keys, v: Keys, mask: Mask) -> Queries:
    return _fwd(q, k, v, mask)[0]


def _fwd(q: Queries, k: Keys, v: Keys, mask: Mask) -> tuple[Queries, Saved]:
    outs, sums = [], []
    for start, end in _blocks(q.shape[3]):
        scores = _scores(q, k, mask, start, end)
        lse = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
        weights = _as_rows(jnp.exp(scores - lse).astype(v.dtype))
        out = _product(weights, v[:, :, :end], 3, 2)
        outs.append(_as_heads(out, scores.shape[2]).astype(q.dtype))
        sums.append(lse)
    # Both are named, so that a block under remat is not run a second time for either.
    out, lse = (checkpoint_name(jnp.concatenate(x, axis=3), "attention") for x in (outs, sums))
    return out, Saved(q, k, v, mask, out, lse)


def _bwd(saved: Saved, d_out: Queries) -> tuple[Queries, Keys, Keys, None]:
    """dq, dk and dv, block by block (FlashAttention, appendix B.2).

    With weights W = softmax(s), s = q k^T / sqrt(P): dv = W^T do, ds = W * (do v^T - D), where D is
    the row sum of do * o, dq = ds k / sqrt(P) and dk = ds^T q / sqrt(P).
    """
    k, v = saved.k, saved.v
    products = d_out.astype(jnp.float32) * saved.out.astype(jnp.float32)
    row_sums = jnp.sum(products, axis=-1, keepdims=True)

    # A block of queries has its own dq, and adds to the dk and dv of all keys up to its end.
    dq, dk, dv = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    for start, end in _blocks(d_out.shape[3]):
        block = _block_gradients(saved, d_out, row_sums, start, end)
        dq.append(block.dq)
        dk = dk.at[:, :, :end].add(block.dk)
        dv = dv.at[:, :, :end].add(block.dv)
    dq = jnp.concatenate(dq, axis=3)
    return dq.astype(saved.q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_fwd, _bwd)


class _BlockGradients(NamedTuple):
    """A block's dq, and its parts of the dk and dv of the keys that it meets, in float32."""

    dq: Float[Array, "B K G Q P"]
    dk: Float[Array, "B K S P"]
    dv: Float[Array, "B K S P"]


def _block_gradients(
    saved: Saved, d_out: Queries, row_sums: Float[Array, "B K G T 1"], start: int, end: int
) -> _BlockGradients:
    q, k, v = saved.q, saved.k[:, :, :end], saved.v[:, :, :end]
    scale = q.shape[-1] ** -0.5

    # W, recomputed from the scores and the saved log-sum-exp instead of a softmax
    weights = _scores(q, saved.k, saved.mask, start, end)
    weights = jnp.exp(weights - saved.lse[:, :, :, start:end])

    q_rows, d_rows = _rows(q, start, end), _rows(d_out, start, end)
    d_scores = _product(d_rows, v, 3, 3).reshape(weights.shape)
    d_scores = weights * (d_scores - row_sums[:, :, :, start:end])
    weights, d_scores = _as_rows(weights.astype(q.dtype)), _as_rows(d_scores.astype(q.dtype))

    return _BlockGradients(
        dq=_as_heads(_product(d_scores, k, 3, 2) * scale, q.shape[2]),
        # The narrow operand first: XLA transposes the left one.
        dk=_product(q_rows, d_scores, 2, 2).swapaxes(2, 3) * scale,
        dv=_product(d_rows, weights, 2, 2).swapaxes(2, 3),
    )


def _blocks(t: int) -> list[tuple[int, int]]:
    """(first query, end) of every block."""
    return [(start, min(start + BLOCK, t)) for start in range(0, t, BLOCK)]


def _scores(q: Queries, k: Keys, mask: Mask, start: int, end: int) -> Float[Array, "B K G Q S"]:
    """Masked scores of a block of queries with the keys up to its end."""
    scores = _product(_rows(q, start, end) * (q.shape[-1] ** -0.5), k[:, :, :end], 3, 3)
    visible = mask[:, None, None, start:end, :end]
    return jnp.where(visible, _as_heads(scores, q.shape[2]), MASKED)


def _rows(x: Queries, start: int, end: int) -> Float[Array, "B K _ P"]:
    """A block of queries, those of all G heads as rows."""
    return _as_rows(x[:, :, :, start:end])


def _as_rows(x: Float[Array, "B K G Q J"]) -> Float[Array, "B K _ J"]:
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _as_heads(x: Float[Array, "B K _ J"], heads: int) -> Float[Array, "B K G Q J"]:
    return x.reshape(*x.shape[:2], heads, -1, x.shape[-1])


def _product(
    a: Float[Array, "B K _ _"], b: Float[Array, "B K _ _"], axis_a: int, axis_b: int
) -> Float[Array, "B K _ _"]:
    """Contracted over an axis of each and batched over (B, K), float32 out."""
    dims = (((axis_a,), (axis_b,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
