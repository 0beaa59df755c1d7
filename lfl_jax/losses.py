"""What training minimises and evaluation reports: next-token negative log-likelihood over target
positions, in nats."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from lfl_jax.core.sharding import Rules, constrain
from lfl_jax.kernels.linear_cross_entropy.reference import token_nll, weighted_nll_sum
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig


def nll_sum(
    params: dict,
    adapter: dict | None,
    batch: Mapping[str, Any],
    cfg: ModelConfig,
    *,
    key: Any = None,
    routing: Any = None,
    rules: Rules | None = None,
) -> Float[Array, ""]:
    """Sum over a batch of weight · nll. Divide by the sum of weights once, over microbatches and
    devices together."""
    hidden = _hidden(params, adapter, batch, cfg, key, routing, rules)
    head = shard_head(llama.head(params), rules)
    return weighted_nll_sum(hidden, head, batch["targets"], batch["weights"])


def per_token(
    params: dict,
    adapter: dict | None,
    batch: Mapping[str, Any],
    cfg: ModelConfig,
    *,
    routing: Any = None,
    rules: Rules | None = None,
) -> tuple[Float[Array, "B T"], Any]:
    """(nll, whether the target was the most likely token) at positions of positive weight; 0 and
    False elsewhere."""
    hidden = _hidden(params, adapter, batch, cfg, None, routing, rules)
    return token_nll(
        hidden, shard_head(llama.head(params), rules), batch["targets"], batch["weights"]
    )


def shard_head(head: Float[Array, "V D"], rules: Rules | None) -> Float[Array, "V D"]:
    """The head as the loop over chunks wants it: the vocabulary stays on the tensor axis, where
    every device computes its share of the logits, and the rest is put together once, not every
    round."""
    return constrain(head, ("vocab", "activation"), rules)


def _hidden(
    params: dict,
    adapter: Any,
    batch: Mapping[str, Any],
    cfg: ModelConfig,
    key: Any,
    routing: Any,
    rules: Any,
) -> Any:
    return llama.forward(
        params,
        adapter,
        batch["tokens"],
        cfg,
        positions=batch["positions"],
        segment_ids=batch["segment_ids"],
        branch_ids=batch.get("branch_ids"),
        routing=routing,
        key=key,
        rules=rules,
    )[0]
