"""The training loss and what evaluation reports of it: next-token negative log-likelihood, in nats.

It is summed over target positions: those of positive weight.
"""

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from lfl_jax.core.sharding import Rules, constrain
from lfl_jax.core.types import AdapterTree, Batch, Key, Params
from lfl_jax.kernels.linear_cross_entropy.reference import token_nll, weighted_nll_sum
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig


def nll_sum(
    params: Params,
    adapter: AdapterTree | None,
    batch: Batch,
    cfg: ModelConfig,
    *,
    key: Key | None = None,
    routing: ArrayLike | None = None,
    rules: Rules | None = None,
) -> Float[Array, ""]:
    """Sum over a batch of weight · nll.

    Divide by the sum of weights once, over microbatches and devices together. key: turns on
    dropout.
    """
    hidden = hidden_states(params, adapter, batch, cfg, key=key, routing=routing, rules=rules)
    return nll_sum_of(hidden, params, batch, rules)


def nll_sum_of(
    hidden: Float[Array, "B T D"], params: Params, batch: Batch, rules: Rules | None = None
) -> Float[Array, ""]:
    """`nll_sum` of hidden states that are there already."""
    # The (B, T, V) logits are never in memory at once: head and cross-entropy are one function.
    with jax.named_scope("loss"):
        head = shard_head(llama.head(params), rules)
        return weighted_nll_sum(hidden, head, batch["targets"], batch["weights"])


def per_token(
    params: Params,
    adapter: AdapterTree | None,
    batch: Batch,
    cfg: ModelConfig,
    *,
    routing: ArrayLike | None = None,
    rules: Rules | None = None,
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """(nll, whether the target was the most likely token) at positions of positive weight.

    Elsewhere (0, False).
    """
    # without a key: evaluation has no dropout
    hidden = hidden_states(params, adapter, batch, cfg, routing=routing, rules=rules)
    with jax.named_scope("loss"):
        head = shard_head(llama.head(params), rules)
        return token_nll(hidden, head, batch["targets"], batch["weights"])


def shard_head(head: Float[Array, "V D"], rules: Rules | None) -> Float[Array, "V D"]:
    """The head as the loop over chunks of positions reads it.

    The vocabulary stays split over the tensor axis, where every device computes its share of the
    logits. The other axis is gathered once, here, and not in every round.
    """
    return constrain(head, ("vocab", "activation"), rules)


def hidden_states(
    params: Params,
    adapter: AdapterTree | None,
    batch: Batch,
    cfg: ModelConfig,
    *,
    key: Key | None = None,
    routing: ArrayLike | None = None,
    rules: Rules | None = None,
) -> Float[Array, "B T D"]:
    """The model's output at every position of a batch, before the head."""
    hidden, _ = llama.forward(
        params,
        adapter,
        batch["tokens"],
        cfg,
        positions=batch["positions"],
        segment_ids=batch["segment_ids"],
        # only batches of evaluation questions have branches, one for each continuation
        branch_ids=batch.get("branch_ids"),
        routing=routing,
        key=key,
        rules=rules,
    )
    return hidden
