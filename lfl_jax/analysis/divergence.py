"""How far a model went from its base: the KL divergence of their next-token distributions, in nats.

With p of the base and q of the tuned model at a position, over the full vocabulary:

    forward KL(p || q) = sum p log(p / q)    large where the tuned model lost what the base predicts
    reverse KL(q || p) = sum q log(q / p)    large where it predicts what the base would not

It is teacher-forced: both models read the same given text, not text that one of them sampled. The
forward one on the new task's inputs is RL's Razor's predictor of forgetting (arXiv 2509.04259).

Letters: B rows, T positions, C of a chunk, D width, V vocabulary, M adapters of a mix.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lfl_jax import losses
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Batch
from lfl_jax.kernels.linear_cross_entropy.chunks import compact
from lfl_jax.kernels.linear_cross_entropy.reference import unembed
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig

# Positions per row and round: two models' logits take the memory that the loss needs for one's.
CHUNK = 32
# Up to this log-ratio a series replaces a difference of nearly equal numbers.
SMALL = 0.25


class Variant(NamedTuple):
    """A model as it is used: routing weights 0 make a base of an adapted one; None, no adapter."""

    model: Model
    routing: Float[Array, "B M"] | None


class Outputs(NamedTuple):
    """Hidden states after the final norm, and the head that makes logits of them."""

    hidden: Float[Array, "B T D"]
    head: Float[Array, "V D"]


class Divergence(NamedTuple):
    """KL(base || tuned) and KL(tuned || base) in nats, 0 where a position's weight is 0."""

    forward: Float[Array, "B T"]
    reverse: Float[Array, "B T"]


def of_variants(
    base: Variant, tuned: Variant, rows: Batch, cfg: ModelConfig, rules: Rules | None = None
) -> Divergence:
    """Of two models on the same rows, as `batching.arrange` makes them.

    Exactly 0 where their parameters are equal and nothing adapts them, by fresh adapters or by
    routing weights 0.
    """
    # Exactness, first half: one program makes both hidden states. Two in one program could be
    # fused, and so rounded, differently.
    base_hidden, hidden = (
        _hidden(variant.model, rows, variant.routing, cfg=cfg, rules=rules)
        for variant in (base, tuned)
    )
    return _of_outputs(
        Outputs(base_hidden, llama.head(base.model.params)),
        Outputs(hidden, llama.head(tuned.model.params)),
        rows["weights"],
        rules=rules,
    )


@partial(jax.jit, static_argnames=("cfg", "rules"))
def _hidden(
    model: Model,
    rows: Batch,
    routing: Float[Array, "B M"] | None,
    *,
    cfg: ModelConfig,
    rules: Rules | None,
) -> Float[Array, "B T D"]:
    return losses.hidden_states(
        model.params, model.adapter, rows, cfg, routing=routing, rules=rules
    )


@partial(jax.jit, static_argnames=("rules",))
def _of_outputs(
    base: Outputs, tuned: Outputs, weights: Float[Array, "B T"], *, rules: Rules | None
) -> Divergence:
    base, tuned = (x._replace(head=losses.shard_head(x.head, rules)) for x in (base, tuned))
    return per_token(base, tuned, weights)


def per_token(
    base: Outputs, tuned: Outputs, weights: Float[Array, "B T"], chunk: int = CHUNK
) -> Divergence:
    """At the positions of positive weight, `chunk` of a row at a time: logits are never (B, T, V).

    The vocabulary is not chunked: its terms need both normalisers first.
    """
    compacted = compact(weights, chunk)

    def body(i: Int[Array, ""], so_far: Divergence) -> Divergence:
        part = compacted.chunk(i)
        logits = [unembed(part.hidden(x.hidden), x.head) for x in (base, tuned)]
        write = partial(jax.lax.dynamic_update_slice, start_indices=(0, part.offset))
        return Divergence(*map(write, so_far, of_logits(*logits)))

    nothing = jnp.zeros(compacted.order.shape, jnp.float32)
    compacted_kl = jax.lax.fori_loop(0, compacted.rounds, body, Divergence(nothing, nothing))
    forward, reverse = map(compacted.restore, compacted_kl)
    return Divergence(jnp.where(weights > 0, forward, 0.0), jnp.where(weights > 0, reverse, 0.0))


def of_logits(base: Float[Array, "B C V"], tuned: Float[Array, "B C V"]) -> Divergence:
    """Of float32 logits, as sums of terms that are never negative.

    KL(p || q) = sum p f(log q - log p) with f(x) = e^x - 1 - x, since p and q both sum to 1. An
    error of a normaliser cancels in f, where in sum p (log p - log q) it would stay: a small
    divergence is not lost in rounding.
    """
    # Exactness, second half: equal logits have equal normalisers as long as both are computed by
    # equal instructions. The barriers keep the compiler from fusing either with what follows.
    base, tuned = jax.lax.optimization_barrier((base, tuned))
    normalisers = jax.nn.logsumexp(base, axis=-1), jax.nn.logsumexp(tuned, axis=-1)
    lse_p, lse_q = jax.lax.optimization_barrier(normalisers)

    p, q = jnp.exp(base - lse_p[..., None]), jnp.exp(tuned - lse_q[..., None])
    # log q - log p. Logits are subtracted first: they are close where it is small.
    x = (tuned - base) - (lse_q - lse_p)[..., None]
    return Divergence(jnp.sum(_terms(p, q, x), axis=-1), jnp.sum(_terms(q, p, -x), axis=-1))


def _terms(
    p: Float[Array, "B C V"], q: Float[Array, "B C V"], x: Float[Array, "B C V"]
) -> Float[Array, "B C V"]:
    """p f(x) with f(x) = e^x - 1 - x and x = log q - log p."""
    # Taylor's f(x) = x^2 (1/2! + x/3! + x^2/4! + ...), to a relative 1e-7 for small x.
    series = 1 / 720 + x / 5040
    for factorial in (120, 24, 6, 2):
        series = 1 / factorial + x * series
    # p e^x is q: no exponential that could overflow.
    return jnp.where(jnp.abs(x) < SMALL, p * x * x * series, q - p - p * x)
