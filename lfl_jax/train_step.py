"""The pure training step: one optimizer step on one batch."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lfl_jax import losses
from lfl_jax.core import tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Batch, Key
from lfl_jax.model import Model
from lfl_jax.models.config import ModelConfig
from lfl_jax.state import State

# Arrays of a packed batch that the step reads.
MODEL_INPUTS = ("tokens", "targets", "weights", "segment_ids", "positions")

# (trainable half, microbatch, key) -> its loss, and the loss's gradient
ValueAndGrad: TypeAlias = Callable[[Model, Batch, Key | None], tuple[Float[Array, ""], Model]]


@partial(jax.jit, static_argnames=("cfg", "tx", "rules"), donate_argnames=("state",))
def train_step(
    state: State,
    frozen: Model,
    batch: Batch,
    key: Key | None,
    *,
    cfg: ModelConfig,
    tx: optax.GradientTransformation,
    rules: Rules | None = None,
) -> tuple[State, dict[str, Array]]:
    """(state, metrics) after one optimizer step on a batch of (A, B, T) arrays, A microbatches.

    Only the trainable half is differentiated. batch["routing"] (A, B, M), if there is one, weights
    the adapters of a mix for each example; integers (A, B) name the one it uses, -1 being none.
    key: for dropout, folded with the step inside; None where nothing is dropped.

    Loss and gradient are sums over target tokens, divided once by their number in the whole batch.
    Metrics: loss (nats per target token), targets, grad_norm and update_norm (global norms over
    the trainable half, gradients before clipping).
    """
    key = None if key is None else jax.random.fold_in(key, state.step)
    targets = jnp.sum(batch["weights"])

    def loss(trainable: Model, micro: Batch, micro_key: Key | None) -> Float[Array, ""]:
        model = tree.combine(trainable, frozen)
        options = {"key": micro_key, "routing": micro.get("routing"), "rules": rules}
        nll = losses.nll_sum(model.params, model.adapter, micro, cfg, **options)
        # By the targets of all microbatches: each counts by its targets, not as one of A.
        return nll / targets

    total, grads = _accumulate(jax.value_and_grad(loss), state.trainable, batch, key)
    updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)

    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    metrics = {"loss": total, "targets": targets} | norms
    return State(trainable, opt_state, state.step + 1), metrics


def _accumulate(
    value_and_grad: ValueAndGrad, trainable: Model, batch: Batch, key: Key | None
) -> tuple[Float[Array, ""], Model]:
    """Sums of loss and gradient over the microbatches."""
    count = batch["tokens"].shape[0]
    keys = [None if key is None else jax.random.fold_in(key, i) for i in range(count)]
    if count == 1:  # needs no accumulator, which would be as large as what trains
        return value_and_grad(trainable, jax.tree.map(lambda x: x[0], batch), keys[0])

    def body(
        sums: tuple[Float[Array, ""], Model], xs: tuple[Batch, Key | None]
    ) -> tuple[tuple[Float[Array, ""], Model], None]:
        return jax.tree.map(jnp.add, sums, value_and_grad(trainable, *xs)), None

    zeros = (jnp.float32(0), jax.tree.map(jnp.zeros_like, trainable))
    stacked_keys = None if key is None else jnp.stack(keys)
    return jax.lax.scan(body, zeros, (batch, stacked_keys))[0]
