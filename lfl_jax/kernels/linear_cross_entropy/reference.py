"""Chunked head and cross-entropy: only target positions are multiplied with the head, a chunk of
logits at a time.

In every row the target positions are moved to the front; a loop with as many rounds as the fullest
row needs takes `CHUNK` of them per row and round. The head is (V, D), an output unit a row, as a
tied embedding is: its transpose is never written. The loss's forward pass already knows its
gradient (softmax minus one-hot), so it computes d hidden at once, and d head only if somebody
differentiates the head.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CHUNK = 64  # positions per row and round


def unembed(hidden: Float[Array, "*N D"], head: Float[Array, "V D"]) -> Float[Array, "*N V"]:
    """Logits in float32."""
    contract = (((hidden.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(
        hidden, head.astype(hidden.dtype), contract, preferred_element_type=jnp.float32
    )


def naive_sum(hidden: Any, head: Any, targets: Any, weights: Any) -> Any:
    """The plain form with all logits, for tests: sum of weight · nll."""
    logits = unembed(hidden, head)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
    return jnp.sum(nll * weights)


@jax.custom_vjp
def weighted_nll_sum(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> Float[Array, ""]:
    """Sum over positions of weight · -log p(target), in float32."""
    return _forward(hidden, head, targets, weights, False, False)[0]


def _fwd(hidden: Any, head: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
    total, d_hidden, d_head = _forward(
        hidden.value, head.value, targets.value, weights.value, hidden.perturbed, head.perturbed
    )
    return total, (d_hidden, d_head)


def _bwd(residuals: Any, ct: Any) -> tuple[Any, ...]:
    d_hidden, d_head = residuals
    scale = lambda x: None if x is None else (x * ct).astype(x.dtype)  # noqa: E731
    return scale(d_hidden), scale(d_head), None, None


weighted_nll_sum.defvjp(_fwd, _bwd, symbolic_zeros=True)


def token_nll(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> tuple[Float[Array, "B T"], Any]:
    """(-log p(target), whether the target is the most likely token) where weight > 0; (0, False)
    elsewhere."""
    order, rounds = _compact(weights)
    size = order.shape[1]

    def body(i: Any, carry: Any) -> Any:
        nll, greedy = carry
        where, chunk = _chunk(i, order, hidden, targets, weights)
        logits, lse, gold = _logits(chunk, head)
        nll = jax.lax.dynamic_update_slice(nll, lse - gold, (0, where))
        best = jnp.argmax(logits, axis=-1) == chunk[1]
        return nll, jax.lax.dynamic_update_slice(greedy, best, (0, where))

    blank = jnp.zeros((hidden.shape[0], size), jnp.float32)
    nll, greedy = jax.lax.fori_loop(0, rounds, body, (blank, jnp.zeros(blank.shape, bool)))
    back = jnp.argsort(order, axis=1)[:, : hidden.shape[1]]
    nll, greedy = (jnp.take_along_axis(x, back, axis=1) for x in (nll, greedy))
    return jnp.where(weights > 0, nll, 0.0), greedy & (weights > 0)


def _compact(weights: Any) -> tuple[Int[Array, "B S"], Any]:
    """Per row, positions with those of weight > 0 first, padded to a multiple of CHUNK; and the
    rounds needed."""
    order = jnp.argsort(weights <= 0, axis=1, stable=True)
    rounds = -(-jnp.max(jnp.sum(weights > 0, axis=1)) // CHUNK)
    pad = -order.shape[1] % CHUNK
    extra = jnp.broadcast_to(
        jnp.arange(order.shape[1], order.shape[1] + pad), (order.shape[0], pad)
    )
    return jnp.concatenate([order, extra], axis=1), rounds


def _chunk(
    i: Any, order: Any, hidden: Any, targets: Any, weights: Any
) -> tuple[Any, tuple[Any, Any, Any]]:
    """Round i: its offset, and hidden (B, C, D), targets, weights (B, C) of its positions (weight 0
    past the end)."""
    where = i * CHUNK
    index = jax.lax.dynamic_slice(order, (0, where), (order.shape[0], CHUNK))
    inside = index < hidden.shape[1]
    index = jnp.minimum(index, hidden.shape[1] - 1)
    take = partial(jnp.take_along_axis, indices=index, axis=1)
    weight = jnp.where(inside, take(weights), 0.0)
    # Rows with fewer targets than the fullest fill up with others: zeroed, so that no value of
    # theirs can matter.
    rows = jnp.where(
        weight[..., None] > 0, jnp.take_along_axis(hidden, index[..., None], axis=1), 0
    )
    return where, (rows, take(targets), weight)


def _logits(chunk: Any, head: Any) -> tuple[Any, Any, Any]:
    rows, targets, _ = chunk
    logits = unembed(rows, head)
    gold = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return logits, jax.nn.logsumexp(logits, axis=-1), gold


def _forward(
    hidden: Any, head: Any, targets: Any, weights: Any, want_hidden: bool, want_head: bool
) -> Any:
    order, rounds = _compact(weights)

    def body(i: Any, carry: Any) -> Any:
        total, d_hidden, d_head = carry
        where, chunk = _chunk(i, order, hidden, targets, weights)
        rows, wanted, weight = chunk
        logits, lse, gold = _logits(chunk, head)
        total = total + jnp.sum((lse - gold) * weight)
        if want_hidden or want_head:
            p = jnp.exp(logits - lse[..., None])
            d_logits = (p - (jnp.arange(p.shape[-1]) == wanted[..., None])) * weight[..., None]
            d_logits = d_logits.astype(rows.dtype)
        if want_hidden:
            d_rows = jnp.matmul(d_logits, head.astype(rows.dtype))
            d_hidden = jax.lax.dynamic_update_slice(d_hidden, d_rows, (0, where, 0))
        if want_head:
            d_head = d_head + jnp.einsum(
                "bcv,bcd->vd", d_logits, rows, preferred_element_type=jnp.float32
            )
        return total, d_hidden, d_head

    blank = (
        jnp.zeros((hidden.shape[0], order.shape[1], hidden.shape[2]), hidden.dtype)
        if want_hidden
        else None
    )
    d_head = jnp.zeros(head.shape, jnp.float32) if want_head else None
    total, d_hidden, d_head = jax.lax.fori_loop(0, rounds, body, (jnp.float32(0), blank, d_head))
    if want_hidden:
        back = jnp.argsort(order, axis=1)[:, : hidden.shape[1], None]
        d_hidden = jnp.take_along_axis(d_hidden, back, axis=1)
    return total, d_hidden, None if d_head is None else d_head.astype(head.dtype)
