"""The curvature of a run's loss where it starts: of its own data, adapter and penalties.

What a run starts from depends on its arm and its seed, not on its learning rate or its length, so
that runs which differ in those share a measurement.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lfl_jax import penalties, state
from lfl_jax.analysis import curvature
from lfl_jax.analysis.lanczos import TopEigenvalue
from lfl_jax.config import Config
from lfl_jax.core import tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Batch
from lfl_jax.data.loader import training_batches
from lfl_jax.data.sources import open_source
from lfl_jax.data.streams import Streams, on_mesh
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import UserError
from lfl_jax.model import LoadedModel, Model
from lfl_jax.models.config import ModelConfig
from lfl_jax.penalties import Penalties
from lfl_jax.run_setup import starting
from lfl_jax.state import State
from lfl_jax.train_step import Objective

# (frozen half, targets of all batches, penalties, a batch's share of what is no sum over targets)
Constants = tuple[Model, Float[Array, ""], Penalties | None, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a run minimises, penalties included, without dropout."""

    cfg: ModelConfig
    rules: Rules | None

    def __call__(self, trainable: Model, constants: Constants, batch: Batch) -> Float[Array, ""]:
        """A batch's share of it."""
        frozen, targets, penalty, share = constants
        objective = Objective(frozen, targets, self.cfg, self.rules, penalty)
        value = objective(trainable, batch, None)[0]
        if penalty is None or penalty.l2 is None:
            return value
        distance = penalties.l2(tree.combine(trainable, frozen), penalty.base)
        return value + share * penalty.l2 * distance


def key(config: Config) -> str:
    """Equal for runs that start alike: a hash of all but the learning rate and the length."""
    optim = dataclasses.replace(config.optim, lr=1.0)
    train = dataclasses.replace(config.train, steps=1)
    return dataclasses.replace(config, optim=optim, train=train).hash()


def measure(
    config: Config,
    base: LoadedModel,
    folder: Path,
    microbatches: int,
    rules: Rules,
    *,
    show_progress: bool = False,
) -> TopEigenvalue:
    """The top Hessian eigenvalue before the first step, over the first microbatches of the run.

    folder: the run's. UserError for a run that branches off another, which has no start of its own.
    """
    if config.train.branch_from:
        raise UserError("a run with train.branch_from starts where another run was")
    start, frozen = _start(config, base, folder, rules)
    penalty = penalties.make(config.penalty, start, rules)
    batches = list(itertools.islice(_microbatches(config, base, rules), microbatches))
    targets = sum((batch["weights"].sum() for batch in batches), jnp.float32(0))
    # In bfloat16 a second derivative would mostly be rounding.
    loss = Loss(dataclasses.replace(base.cfg, compute_dtype="float32"), rules)
    constants = (frozen, targets, penalty, jnp.float32(1 / len(batches)))
    batches = list(map(curvature.with_plain_attention, batches))
    options = {"key": jax.random.key(config.seed.init), "show_progress": show_progress}
    return curvature.of_loss(loss, start.trainable, constants, batches, **options)


def _start(config: Config, base: LoadedModel, folder: Path, rules: Rules) -> tuple[State, Model]:
    """The state of step 0, without an optimizer, and the frozen half."""
    # A run directory with a checkpoint needs no more than the shapes of what it started from, so
    # that its start is made as in a new one. Of a frozen first adapter it has the copy.
    own = folder if config.adapter.over else folder / "start"
    start = starting.make(config, base, rules, own)
    model = base.model.replace(adapter=start.adapter)
    created, frozen = state.create(model, config.trainable, optax.identity(), rules, start.frozen)
    return start.begin(created), frozen


def _microbatches(config: Config, base: LoadedModel, rules: Rules) -> Iterator[Batch]:
    """(B, T) arrays on the mesh, in the order of training."""
    streams = Streams.here(config.data.streams, config.train, rules)
    source = open_source(config.data, "train", config.seed.data)
    tokenized = TokenizedSource(source, base.tokenizer, config.data)
    options = {"batch": config.train.batch, "seed": config.seed.data, "streams": streams}
    with contextlib.closing(training_batches(tokenized, **options)) as batches:
        for batch in batches:
            placed = on_mesh(batch, config.train.microbatches, rules)
            for i in range(config.train.microbatches):
                yield {name: rows[i] for name, rows in placed.items()}
