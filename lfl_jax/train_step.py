"""The pure training step: one optimizer step on one batch."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lfl_jax import losses, penalties
from lfl_jax.analysis.divergence import Outputs
from lfl_jax.core import tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Batch, Key
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.penalties import Penalties
from lfl_jax.state import State


class Terms(NamedTuple):
    """Parts of the objective, in nats per target token; None for a penalty without a weight."""

    loss: Float[Array, ""]
    non_target_kl: Float[Array, ""] | None


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a microbatch adds to the objective, as a function of what trains.

    targets: their number in the whole batch.
    """

    frozen: Model
    targets: Float[Array, ""]
    cfg: ModelConfig
    rules: Rules | None
    penalty: Penalties | None

    @property
    def has_kl(self) -> bool:
        """Whether the divergence from the base is a part of it."""
        return self.penalty is not None and self.penalty.non_target_kl is not None

    def __call__(
        self, trainable: Model, batch: Batch, key: Key | None
    ) -> tuple[Float[Array, ""], Terms]:
        """The objective, and its parts."""
        model = tree.combine(trainable, self.frozen)
        options = {"key": key, "routing": batch.get("routing"), "rules": self.rules}
        with jax.named_scope("forward"):
            hidden = losses.hidden_states(model.params, model.adapter, batch, self.cfg, **options)
        # By the targets of all microbatches: each counts by its targets, not as one of A.
        loss = losses.nll_sum_of(hidden, model.params, batch, self.rules) / self.targets
        if not self.has_kl:
            return loss, Terms(loss, None)

        base = penalties.base_outputs(self.penalty, self.frozen, batch, self.cfg, self.rules)
        head = losses.shard_head(llama.head(model.params), self.rules)
        kl = penalties.non_target_kl_sum(base, Outputs(hidden, head), batch) / self.targets
        return loss + self.penalty.non_target_kl * kl, Terms(loss, kl)

    def gradients(self, trainable: Model, batch: Batch, key: Key | None) -> tuple[Terms, Model]:
        """The objective's parts, and its gradient by what trains."""
        grads, terms = jax.grad(self, has_aux=True)(trainable, batch, key)
        return terms, grads

    def zeros(self, trainable: Model) -> tuple[Terms, Model]:
        """What sums over microbatches start from."""
        terms = Terms(jnp.float32(0), jnp.float32(0) if self.has_kl else None)
        return terms, jax.tree.map(jnp.zeros_like, trainable)


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
    penalty: Penalties | None = None,
) -> tuple[State, dict[str, Array]]:
    """(state, metrics) after one optimizer step on a batch of (A, B, T) arrays, A microbatches.

    Only the trainable half is differentiated. batch["routing"] (A, B, M), if there is one, weights
    the adapters of a mix for each example; integers (A, B) name the one it uses, -1 being none.
    key: for dropout, folded with the step inside; None where nothing is dropped. penalty: what is
    added to the loss.

    Loss and gradient are sums over target tokens, divided once by their number in the whole batch.
    Metrics: loss (nats per target token), targets, tokens (of the whole batch, without padding),
    grad_norm and update_norm (global norms over the trainable half; gradients are of loss and
    penalties together, before clipping). Penalties are apart from the loss, and without their
    weights: non_target_kl (nats per target token) and l2_to_base.
    """
    key = None if key is None else jax.random.fold_in(key, state.step)
    targets = jnp.sum(batch["weights"])

    objective = Objective(frozen, targets, cfg, rules, penalty)
    terms, grads = _accumulate(objective, state.trainable, batch, key)
    grads, distance = _with_l2(grads, state.trainable, frozen, penalty)
    with jax.named_scope("optimizer"):
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)

    with jax.named_scope("norms"):
        norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    tokens = jnp.sum(batch["segment_ids"] > 0)
    metrics = {"targets": targets, "tokens": tokens} | norms | _reported(terms._asdict() | distance)
    return State(trainable, opt_state, state.step + 1), metrics


def _accumulate(
    objective: Objective, trainable: Model, batch: Batch, key: Key | None
) -> tuple[Terms, Model]:
    """Sums of the objective's parts and gradients over the microbatches."""
    count = batch["tokens"].shape[0]
    keys = [None if key is None else jax.random.fold_in(key, i) for i in range(count)]
    if count == 1:  # needs no accumulator, which would be as large as what trains
        return objective.gradients(trainable, jax.tree.map(lambda x: x[0], batch), keys[0])

    def body(
        sums: tuple[Terms, Model], xs: tuple[Batch, Key | None]
    ) -> tuple[tuple[Terms, Model], None]:
        return jax.tree.map(jnp.add, sums, objective.gradients(trainable, *xs)), None

    stacked_keys = None if key is None else jnp.stack(keys)
    return jax.lax.scan(body, objective.zeros(trainable), (batch, stacked_keys))[0]


def _with_l2(
    grads: Model, trainable: Model, frozen: Model, penalty: Penalties | None
) -> tuple[Model, dict[str, Array | None]]:
    """Gradients with those of the distance to the base, and this distance."""
    if penalty is None or penalty.l2 is None:
        return grads, {"l2_to_base": None}

    def distance(trainable: Model) -> Float[Array, ""]:
        return penalties.l2(tree.combine(trainable, frozen), penalty.base)

    # Once a step: it is of the weights, and no microbatch has a share of it.
    value, added = jax.value_and_grad(distance)(trainable)
    return jax.tree.map(lambda g, x: g + penalty.l2 * x, grads, added), {"l2_to_base": value}


def _reported(values: dict[str, Array | None]) -> dict[str, Array]:
    return {name: x for name, x in values.items() if x is not None}
