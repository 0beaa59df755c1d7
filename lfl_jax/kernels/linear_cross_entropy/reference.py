"""Chunked head and cross-entropy, of target positions only and never with all logits at once.

In every row the target positions are moved to the front; a loop with as many rounds as the fullest
row needs takes `positions_per_round` of each. The head is (V, D), an output unit a row, as a
tied embedding is: its transpose is never written. The forward pass of a sum over positions already
knows the gradient by the logits (of the loss: softmax minus one-hot), so it computes d hidden at
once, and d head only if somebody differentiates the head.

Letters: B rows, T positions, S positions padded to whole chunks, C of a chunk, D width, V
vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array, Bool, Float, Int

from lfl_jax.core.pytree import PyTree
from lfl_jax.kernels.linear.output_rows import times_output_rows
from lfl_jax.kernels.linear_cross_entropy.chunks import Chunk, compact, positions_per_round


def unembed(hidden: Float[Array, "*N D"], head: Float[Array, "V D"]) -> Float[Array, "*N V"]:
    """Logits in float32."""
    with jax.named_scope("head"):
        return times_output_rows(hidden, head, jnp.float32)


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


class _Likelihoods(NamedTuple):
    """Of a chunk's logits (B, C, V): their logsumexp, and the logits of the targets."""

    lse: Float[Array, "B C"]
    target: Float[Array, "B C"]


def _likelihoods(logits: Float[Array, "B C V"], targets: Int[Array, "B C"]) -> _Likelihoods:
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return _Likelihoods(jax.nn.logsumexp(logits, axis=-1), target)


def token_nll(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """(-log p(target), whether the target is the most likely token) where weight > 0.

    Elsewhere (0, False).
    """
    compacted = compact(weights, positions_per_round(len(hidden), len(head)))
    Carry: TypeAlias = tuple[Float[Array, "B S"], Bool[Array, "B S"]]

    def body(i: Int[Array, ""], carry: Carry) -> Carry:
        nll, is_greedy = carry
        chunk = compacted.chunk(i)
        rows, chunk_targets = chunk.hidden(hidden), chunk.take(targets)
        logits = unembed(rows, head)
        lse, target = _likelihoods(logits, chunk_targets)
        nll = jax.lax.dynamic_update_slice(nll, lse - target, (0, chunk.offset))
        is_best = jnp.argmax(logits, axis=-1) == chunk_targets
        return nll, jax.lax.dynamic_update_slice(is_greedy, is_best, (0, chunk.offset))

    no_nll = jnp.zeros(compacted.order.shape, jnp.float32)
    none_greedy = jnp.zeros(compacted.order.shape, bool)
    nll, is_greedy = jax.lax.fori_loop(0, compacted.rounds, body, (no_nll, none_greedy))
    nll, is_greedy = compacted.restore(nll), compacted.restore(is_greedy)
    return jnp.where(weights > 0, nll, 0.0), is_greedy & (weights > 0)


def weighted_nll_sum(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> Float[Array, ""]:
    """Sum over positions of weight · -log p(target), in float32."""
    size = positions_per_round(len(hidden), len(head))
    return sum_over_positions(_nll, size, hidden, head, weights, targets)


def _nll(
    chunk: Chunk, logits: Float[Array, "B C V"], targets: Int[Array, "B T"]
) -> tuple[Float[Array, ""], Float[Array, "B C V"]]:
    """The chunk's part of the loss; d loss / d logits = weight · (softmax - one-hot)."""
    chunk_targets = chunk.take(targets)
    lse, target = _likelihoods(logits, chunk_targets)
    p = jnp.exp(logits - lse[..., None])
    one_hot = jnp.arange(p.shape[-1]) == chunk_targets[..., None]
    return jnp.sum((lse - target) * chunk.weights), (p - one_hot) * chunk.weights[..., None]


# (a chunk, its logits, what is constant) -> (what it adds to the sum, the gradient by its logits);
# both contain the chunk's weights, so that a filled-up position adds nothing
Summand: TypeAlias = Callable[
    [Chunk, Float[Array, "B C V"], PyTree], tuple[Float[Array, ""], Float[Array, "B C V"]]
]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_over_positions(
    summand: Summand,
    size: int,
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    weights: Float[Array, "B T"],
    constants: PyTree,
) -> Float[Array, ""]:
    """The sum of a function of the logits over positions of positive weight, `size` of a row at a
    time.

    It is differentiated by hidden and head alone.
    """
    arrays = (hidden, head, weights, constants)
    return _summed(summand, size, *arrays, for_hidden=False, for_head=False).total


class _Sum(NamedTuple):
    """The sum and its gradients, None where nobody asks for one."""

    total: Float[Array, ""]
    d_hidden: Float[Array, "B _ D"] | None
    d_head: Float[Array, "V D"] | None


def _fwd(
    summand: Summand,
    size: int,
    hidden: CustomVJPPrimal,
    head: CustomVJPPrimal,
    weights: CustomVJPPrimal,
    constants: PyTree,
) -> tuple[Float[Array, ""], _Sum]:
    """The sum and, as residuals, the gradients by whatever is differentiated."""
    is_primal = lambda x: isinstance(x, CustomVJPPrimal)  # noqa: E731
    values = jax.tree.map(lambda x: x.value, constants, is_leaf=is_primal)
    arrays = (hidden.value, head.value, weights.value, values)
    differentiated = {"for_hidden": hidden.perturbed, "for_head": head.perturbed}
    result = _summed(summand, size, *arrays, **differentiated)
    return result.total, result


def _bwd(
    summand: Summand, size: int, result: _Sum, d_total: Float[Array, ""]
) -> tuple[Float[Array, "B T D"] | None, Float[Array, "V D"] | None, None, None]:
    d_hidden, d_head = (
        None if x is None else (x * d_total).astype(x.dtype)
        for x in (result.d_hidden, result.d_head)
    )
    return d_hidden, d_head, None, None


sum_over_positions.defvjp(_fwd, _bwd, symbolic_zeros=True)


def _summed(
    summand: Summand,
    size: int,
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    weights: Float[Array, "B T"],
    constants: PyTree,
    *,
    for_hidden: bool,
    for_head: bool,
) -> _Sum:
    """The sum, and the gradients that are asked for, in one loop over chunks."""
    compacted = compact(weights, size)

    def body(i: Int[Array, ""], so_far: _Sum) -> _Sum:
        chunk = compacted.chunk(i)
        rows = chunk.hidden(hidden)
        added, d_logits = summand(chunk, unembed(rows, head), constants)
        d_logits, d_hidden, d_head = d_logits.astype(rows.dtype), so_far.d_hidden, so_far.d_head
        if for_hidden:
            d_rows = jnp.matmul(d_logits, head.astype(hidden.dtype))
            d_hidden = jax.lax.dynamic_update_slice(d_hidden, d_rows, (0, chunk.offset, 0))
        if for_head:
            d_head = d_head + jnp.einsum(
                "bcv,bcd->vd", d_logits, rows, preferred_element_type=jnp.float32
            )
        return _Sum(so_far.total + added, d_hidden, d_head)

    shape = (*compacted.order.shape, hidden.shape[-1])
    nothing = _Sum(
        jnp.float32(0),
        jnp.zeros(shape, hidden.dtype) if for_hidden else None,
        # in float32: it is summed over all chunks
        jnp.zeros(head.shape, jnp.float32) if for_head else None,
    )
    total, d_hidden, d_head = jax.lax.fori_loop(0, compacted.rounds, body, nothing)
    return _Sum(
        total,
        compacted.restore(d_hidden) if for_hidden else None,
        d_head.astype(head.dtype) if for_head else None,
    )
