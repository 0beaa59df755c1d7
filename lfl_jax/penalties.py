"""Penalties: terms of the objective that keep a model near its base, beside the training loss.

    l2              ||W - W0||_F^2, summed over what trains; of an adapter, ||dW||_F^2, summed over
                    the weights that it adapts (L2-SP, Li et al., arXiv 1802.01483)
    non_target_kl   KL(p' || q') at the target positions of the batch, where p' and q' are the
                    distributions of base and tuned model without the target token, renormalised
                    (arXiv 2605.29498): what the loss says nothing of stays as it was

The base is the model without any adapter, its parameters as they were loaded. Weights are arrays:
runs that differ in them share a compiled step.

Letters: B rows, T positions, C of a chunk, V vocabulary, D width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lfl_jax import losses
from lfl_jax.adapters import adapter_tree
from lfl_jax.adapters.build import find_kinds
from lfl_jax.adapters.kind import Kind, Shared
from lfl_jax.adapters.mix import AdapterLayer
from lfl_jax.analysis.divergence import CHUNK, Outputs, of_logits
from lfl_jax.config import Config, PenaltyConfig
from lfl_jax.core import hosts, tree
from lfl_jax.core.pytree import Node
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Batch, Params, Weight
from lfl_jax.errors import UserError
from lfl_jax.kernels.linear_cross_entropy.chunks import Chunk
from lfl_jax.kernels.linear_cross_entropy.reference import sum_over_positions, unembed
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.state import State

# A logit that has no probability. It is finite, so that differences of two of them are 0.
EXCLUDED = -1e30


@struct.dataclass
class Penalties(Node):
    """Weights of the penalties, None for one that is not asked for, and the base's parameters.

    base: a copy of those that train, as they were before the first step; None elsewhere.
    """

    l2: Array | None
    non_target_kl: Array | None
    base: Params


def check(config: Config) -> None:
    """UserError for an adapter that has no weight change for the l2 penalty to measure."""
    kinds = find_kinds(config.adapter) if config.penalty.l2 else []
    for name, kind in zip(config.adapter.kinds, kinds, strict=False):
        if kind.on_output or kind.delta is Kind.delta:
            raise UserError(
                f"config.penalty.l2 is of weight changes, and {name} has none; use"
                " config.penalty.non_target_kl"
            )


def make(config: PenaltyConfig, state: State, rules: Rules | None = None) -> Penalties | None:
    """The penalties of a run, from its state before the first step; None without any."""
    if not any(dataclasses.astuple(config)):
        return None

    def array(weight: float) -> Array | None:
        # Of weight 0 the step computes nothing.
        if not weight:
            return None
        value = jnp.float32(weight)
        return hosts.put(value, rules.sharding((), ())) if rules else value

    # Copies: the first step donates what trains.
    base = jax.tree.map(jnp.copy, state.trainable.params)
    return Penalties(array(config.l2), array(config.non_target_kl), base)


def l2(model: Model, base: Params) -> Float[Array, ""]:
    """||W - W0||_F^2 over all parameters that train and all weights that are adapted."""
    before, total = dict(tree.items(base)), jnp.float32(0)
    after = dict(tree.items(model.params))
    # A weight that is adapted and trains has one change, the sum of both.
    for path, layer in adapter_tree.named_layers(model.adapter) if model.adapter else ():
        w = adapter_tree.weight(model.params, path)
        total += _adapted(layer, w, before.pop(path, None), model.adapter.get("shared"))
    for path, w0 in before.items():
        total += jnp.sum(jnp.square(after[path] - w0))
    return total


def _adapted(
    layer: AdapterLayer, w: Weight, w0: Float[Array, "L I O"] | None, shared: Shared
) -> Float[Array, ""]:
    """Of one stacked weight, of which one layer's change exists at a time."""

    # Recomputed in the backward pass, which would otherwise keep every layer's dW.
    @jax.checkpoint
    def add(
        total: Float[Array, ""], xs: tuple[AdapterLayer, Weight, Float[Array, "I O"] | None]
    ) -> tuple[Float[Array, ""], None]:
        layer, w, w0 = xs
        change = layer.with_shared(shared).delta(w)
        change = change if w0 is None else change + (w - w0)
        return total + jnp.sum(jnp.square(change)), None

    return jax.lax.scan(add, jnp.float32(0), (layer, w, w0))[0]


def base_outputs(
    penalty: Penalties, frozen: Model, batch: Batch, cfg: ModelConfig, rules: Rules | None
) -> Outputs:
    """The base's outputs on a batch: without adapter and dropout, and never differentiated."""
    params = tree.combine(penalty.base, frozen.params)
    with jax.named_scope("base"):
        hidden = losses.hidden_states(params, None, batch, cfg, rules=rules)
    return Outputs(hidden, losses.shard_head(llama.head(params), rules))


def non_target_kl_sum(base: Outputs, tuned: Outputs, batch: Batch) -> Float[Array, ""]:
    """Sum over positions of weight · KL(p' || q'), in nats, of the vocabulary without the target.

    Logits are never (B, T, V). It is differentiated by the tuned model's outputs alone.
    """
    constants = (base, batch["targets"])
    return sum_over_positions(_kl, CHUNK, tuned.hidden, tuned.head, batch["weights"], constants)


def _kl(
    chunk: Chunk,
    logits: Float[Array, "B C V"],
    constants: tuple[Outputs, Int[Array, "B T"]],
) -> tuple[Float[Array, ""], Float[Array, "B C V"]]:
    """The chunk's part; d KL / d logits = weight · (q' - p'), and 0 for the target."""
    base, targets = constants
    is_target = jnp.arange(logits.shape[-1]) == chunk.take(targets)[..., None]
    base_logits = unembed(chunk.hidden(base.hidden), base.head)
    p_logits, q_logits = (jnp.where(is_target, EXCLUDED, x) for x in (base_logits, logits))
    kl = of_logits(p_logits, q_logits).forward
    difference = jax.nn.softmax(q_logits) - jax.nn.softmax(p_logits)
    return jnp.sum(kl * chunk.weights), difference * chunk.weights[..., None]
