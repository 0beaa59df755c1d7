"""A run as shapes alone: what `train_step` takes, sharded over devices that need not exist.

No array is made and no file of weights is read, so that a run of any size is described in
milliseconds, and a compiler can be given its step for hardware that is not there.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from lfl_jax import optim, schedules
from lfl_jax import state as states
from lfl_jax.config import Config
from lfl_jax.core import spec
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import PyTree
from lfl_jax.data.streams import MODEL_INPUTS, ROW_AXES
from lfl_jax.model import Model
from lfl_jax.models.config import ModelConfig
from lfl_jax.run_setup import base_model, model_specs
from lfl_jax.state import State


@dataclasses.dataclass(frozen=True)
class AbstractRun:
    """The arguments of `train_step` as ShapeDtypeStructs with shardings.

    batch: (A, B, T), A microbatches. key: of dropout, None where nothing is dropped.
    """

    cfg: ModelConfig
    rules: Rules
    tx: optax.GradientTransformation
    state: State
    frozen: Model
    batch: dict[str, jax.ShapeDtypeStruct]
    key: jax.ShapeDtypeStruct | None


def describe(config: Config, rules: Rules, steps: int = 1) -> AbstractRun:
    """The run of a config on a mesh, which may be an AbstractMesh.

    steps: of its schedule. Raises UserError for what is wrong with the model, the adapter or the
    patterns of what trains.
    """
    cfg = base_model.numerics(base_model.shape(config), config)
    trainable, frozen = model_specs.halves(config, cfg)
    train = spec.abstract(model_specs.in_float32(trainable), rules)
    tx = optim.make(config.optim, schedules.make(config.optim, steps))
    opt_state = jax.eval_shape(tx.init, train)
    opt_state = _sharded(opt_state, states.optimizer_shardings(opt_state, train, rules))
    step = _replicated(jax.ShapeDtypeStruct((), jnp.int32), rules)
    key = jax.eval_shape(lambda: jax.random.key(0)) if cfg.drops else None
    return AbstractRun(
        cfg,
        rules,
        tx,
        State(train, opt_state, step),
        spec.abstract(frozen, rules),
        _batch(config, rules),
        None if key is None else _replicated(key, rules),
    )


def _batch(config: Config, rules: Rules) -> dict[str, jax.ShapeDtypeStruct]:
    """A packed batch, as `train` puts it on the mesh."""
    rows = config.train.rows
    shape = (config.train.microbatches, rows, config.data.seq_len)
    sharding = rules.sharding(ROW_AXES, shape)
    dtypes = dict.fromkeys(MODEL_INPUTS, jnp.int32) | {"weights": jnp.float32}
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, dtype in dtypes.items()
    }


def _sharded(shapes: PyTree, shardings: PyTree) -> PyTree:
    """Shapes with these shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _replicated(x: jax.ShapeDtypeStruct, rules: Rules) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rules.sharding((), ()))
