"""The gradient of a step: of packed rows and of single examples, of a batch and of its parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lfl_jax import optim, schedules
from lfl_jax import state as states
from lfl_jax.config import OptimConfig
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Batch, PyTree
from lfl_jax.model import Model
from lfl_jax.models.config import ModelConfig
from lfl_jax.proofs import rounding
from lfl_jax.proofs.finding import Finding, at_most, not_applicable
from lfl_jax.proofs.reduced import ReducedRun
from lfl_jax.train_step import train_step

# What divides by a gradient's size, as Adam does, would magnify the rounding of small ones.
PLAIN = OptimConfig(
    name="sgd",
    lr=0.1,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    clip=1.0,
    schedule="constant",
    warmup_steps=0,
    warmup_fraction=0.0,
    final_fraction=0.0,
    cooldown_fraction=0.0,
)


@functools.cache
def recording() -> optax.GradientTransformation:
    """A plain optimizer whose state begins with the last step's gradients."""
    plain = optim.make(PLAIN, schedules.make(PLAIN, 2))

    def init(params: PyTree) -> optax.OptState:
        return jax.tree.map(jnp.zeros_like, params), *plain.init(params)

    def update(
        grads: PyTree, state: optax.OptState, params: PyTree
    ) -> tuple[PyTree, optax.OptState]:
        updates, later = plain.update(grads, state[1:], params)
        return updates, (grads, *later)

    return optax.GradientTransformation(init, update)


def of_step(
    model: Model,
    trainable: tuple[str, ...],
    batch: Batch,
    cfg: ModelConfig,
    rules: Rules | None = None,
) -> PyTree:
    """The gradients of one training step on a batch of (A, B, T) arrays."""
    tx = recording()
    # The step donates its state: the model's own arrays stay.
    state, frozen = states.create(model, trainable, tx, rules)
    state = jax.tree.map(jnp.copy, state)
    after, _ = train_step(state, frozen, batch, None, cfg=cfg, tx=tx, rules=rules)
    return after.opt_state[0]


def check_accumulation(run: ReducedRun) -> Finding:
    """A batch in k microbatches has the gradient of the batch as one."""
    rows, k = run.batch["tokens"].shape[0], max(run.config.train.microbatches, 2)
    one, parts = (_microbatches(run.batch, count) for count in (1, k))
    function = functools.partial(_gradients, run)
    args = (run.trained, one)
    distance = rounding.distance(function(run.trained, parts), function(*args), function, *args)
    return _as_finding(distance, f"{rows} rows as 1 and as {k} microbatches")


def check_packing(run: ReducedRun) -> Finding:
    """Packed rows have the gradient of their examples in a row each."""
    if run.config.data.cross_document == "attend":
        return not_applicable("data.cross_document=attend: examples of a row see each other")
    single = unpacked(run.batch)
    rows, examples = (len(batch["tokens"]) for batch in (run.batch, single))
    if examples <= rows:
        return not_applicable(f"no row of {run.config.data.seq_len} tokens holds two examples")
    function = functools.partial(_gradients, run)
    args = (run.trained, _microbatches(run.batch, 1))
    got = function(run.trained, _microbatches(single, 1))
    distance = rounding.distance(got, function(*args), function, *args)
    return _as_finding(distance, f"{examples} examples in {rows} rows")


def unpacked(batch: Batch) -> Batch:
    """Every segment of a batch in a row of its own, at the row's start."""
    segments = [
        (row, segment)
        for row, ids in enumerate(batch["segment_ids"])
        for segment in range(1, int(ids.max()) + 1)
    ]
    single = {name: np.zeros((len(segments), *x.shape[1:]), x.dtype) for name, x in batch.items()}
    for i, (row, segment) in enumerate(segments):
        slots = batch["segment_ids"][row] == segment
        for name, x in batch.items():
            single[name][i, : slots.sum()] = x[row, slots]
    single["segment_ids"] = np.minimum(single["segment_ids"], 1)
    return single


def _microbatches(batch: Batch, count: int) -> Batch:
    return {name: x.reshape(count, -1, x.shape[-1]) for name, x in batch.items()}


def _gradients(run: ReducedRun, model: Model, batch: Batch) -> PyTree:
    return of_step(model, run.config.trainable, batch, run.exact)


def _as_finding(distance: rounding.Distance, what: str) -> Finding:
    unit = "x rounding"
    return at_most(distance.times, rounding.ROUNDINGS, unit, f"{what}; {distance.path}")
