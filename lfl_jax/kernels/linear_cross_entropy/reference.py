"""Chunked head and cross-entropy, of target positions only and never with all logits at once.

In every row the target positions are moved to the front; a loop with as many rounds as the fullest
row needs takes `CHUNK` of them per row and round. The head is (V, D), an output unit a row, as a
tied embedding is: its transpose is never written. The loss's forward pass already knows its
gradient (softmax minus one-hot), so it computes d hidden at once, and d head only if somebody
differentiates the head.

Letters: B rows, T positions, S positions padded to whole chunks, C of a chunk, D width, V
vocabulary.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array, Bool, Float, Int

from lfl_jax.kernels.linear_cross_entropy.chunks import Compacted, compact

CHUNK = 64  # positions per row and round


def unembed(hidden: Float[Array, "*N D"], head: Float[Array, "V D"]) -> Float[Array, "*N V"]:
    """Logits in float32."""
    contract = (((hidden.ndim - 1,), (1,)), ((), ()))
    with jax.named_scope("head"):
        return jax.lax.dot_general(
            hidden, head.astype(hidden.dtype), contract, preferred_element_type=jnp.float32
        )


def naive_sum(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> Float[Array, ""]:
    """The plain form with all logits, for tests: sum of weight · nll."""
    logits = unembed(hidden, head)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
    return jnp.sum(nll * weights)


class _Chunk(NamedTuple):
    """The positions of one round: hidden states, targets, and weights, 0 for a filled-up one."""

    offset: Int[Array, ""]  # of the chunk among the compacted positions
    hidden: Float[Array, "B C D"]
    targets: Int[Array, "B C"]
    weights: Float[Array, "B C"]


def _chunk(
    compacted: Compacted,
    i: Int[Array, ""],
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
) -> _Chunk:
    """Round i."""
    chunk = compacted.chunk(i)
    return _Chunk(chunk.offset, chunk.hidden(hidden), chunk.take(targets), chunk.weights)


class _Logits(NamedTuple):
    """Logits (B, C, V) of a chunk, their logsumexp, and the logits of the targets."""

    logits: Float[Array, "B C V"]
    lse: Float[Array, "B C"]
    target: Float[Array, "B C"]


def _logits(chunk: _Chunk, head: Float[Array, "V D"]) -> _Logits:
    logits = unembed(chunk.hidden, head)
    target = jnp.take_along_axis(logits, chunk.targets[..., None], axis=-1)[..., 0]
    return _Logits(logits, jax.nn.logsumexp(logits, axis=-1), target)


def token_nll(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """(-log p(target), whether the target is the most likely token) where weight > 0.

    Elsewhere (0, False).
    """
    compacted = compact(weights, CHUNK)
    Carry: TypeAlias = tuple[Float[Array, "B S"], Bool[Array, "B S"]]

    def body(i: Int[Array, ""], carry: Carry) -> Carry:
        nll, is_greedy = carry
        chunk = _chunk(compacted, i, hidden, targets)
        logits, lse, target = _logits(chunk, head)
        nll = jax.lax.dynamic_update_slice(nll, lse - target, (0, chunk.offset))
        is_best = jnp.argmax(logits, axis=-1) == chunk.targets
        return nll, jax.lax.dynamic_update_slice(is_greedy, is_best, (0, chunk.offset))

    no_nll = jnp.zeros(compacted.order.shape, jnp.float32)
    none_greedy = jnp.zeros(compacted.order.shape, bool)
    nll, is_greedy = jax.lax.fori_loop(0, compacted.rounds, body, (no_nll, none_greedy))
    nll, is_greedy = compacted.restore(nll), compacted.restore(is_greedy)
    return jnp.where(weights > 0, nll, 0.0), is_greedy & (weights > 0)


class _Loss(NamedTuple):
    """The summed loss and its gradients, None where nobody asks for one."""

    total: Float[Array, ""]
    d_hidden: Float[Array, "B _ D"] | None
    d_head: Float[Array, "V D"] | None


@jax.custom_vjp
def weighted_nll_sum(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> Float[Array, ""]:
    """Sum over positions of weight · -log p(target), in float32."""
    return _loss(hidden, head, targets, weights, for_hidden=False, for_head=False).total


def _fwd(
    hidden: CustomVJPPrimal,
    head: CustomVJPPrimal,
    targets: CustomVJPPrimal,
    weights: CustomVJPPrimal,
) -> tuple[Float[Array, ""], _Loss]:
    """The loss and, as residuals, the gradients by whatever is differentiated."""
    loss = _loss(
        hidden.value, head.value, targets.value, weights.value,
        for_hidden=hidden.perturbed, for_head=head.perturbed,
    )  # fmt: skip
    return loss.total, loss


def _bwd(
    loss: _Loss, d_total: Float[Array, ""]
) -> tuple[Float[Array, "B T D"] | None, Float[Array, "V D"] | None, None, None]:
    d_hidden, d_head = (
        None if x is None else (x * d_total).astype(x.dtype) for x in (loss.d_hidden, loss.d_head)
    )
    return d_hidden, d_head, None, None


weighted_nll_sum.defvjp(_fwd, _bwd, symbolic_zeros=True)


def _loss(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    for_hidden: bool,
    for_head: bool,
) -> _Loss:
    """The loss, and the gradients that are asked for, in one loop over chunks."""
    compacted = compact(weights, CHUNK)

    def body(i: Int[Array, ""], so_far: _Loss) -> _Loss:
        chunk = _chunk(compacted, i, hidden, targets)
        logits = _logits(chunk, head)
        total = so_far.total + jnp.sum((logits.lse - logits.target) * chunk.weights)
        if not (for_hidden or for_head):
            return so_far._replace(total=total)

        d_logits = _d_logits(chunk, logits)
        d_hidden, d_head = so_far.d_hidden, so_far.d_head
        if for_hidden:
            d_rows = jnp.matmul(d_logits, head.astype(hidden.dtype))
            d_hidden = jax.lax.dynamic_update_slice(d_hidden, d_rows, (0, chunk.offset, 0))
        if for_head:
            d_head = d_head + jnp.einsum(
                "bcv,bcd->vd", d_logits, chunk.hidden, preferred_element_type=jnp.float32
            )
        return _Loss(total, d_hidden, d_head)

    size = (*compacted.order.shape, hidden.shape[-1])
    nothing = _Loss(
        jnp.float32(0),
        jnp.zeros(size, hidden.dtype) if for_hidden else None,
        # in float32: it is summed over all chunks
        jnp.zeros(head.shape, jnp.float32) if for_head else None,
    )
    total, d_hidden, d_head = jax.lax.fori_loop(0, compacted.rounds, body, nothing)
    return _Loss(
        total,
        compacted.restore(d_hidden) if for_hidden else None,
        d_head.astype(head.dtype) if for_head else None,
    )


def _d_logits(chunk: _Chunk, logits: _Logits) -> Float[Array, "B C V"]:
    """d loss / d logits = weight · (softmax - one-hot), in the dtype of the hidden states."""
    p = jnp.exp(logits.logits - logits.lse[..., None])
    one_hot = jnp.arange(p.shape[-1]) == chunk.targets[..., None]
    return ((p - one_hot) * chunk.weights[..., None]).astype(chunk.hidden.dtype)
