"""What trains, and its moments, are held in float32, whatever the base is stored or computed in."""

import jax
import jax.numpy as jnp

from lfl_jax import optim, schedules
from lfl_jax import state as states
from lfl_jax.core import tree
from lfl_jax.core.types import PyTree
from lfl_jax.model import Model
from lfl_jax.proofs.finding import Finding, judged
from lfl_jax.proofs.reduced import ReducedRun


def check(run: ReducedRun) -> Finding:
    """Weights that train and their moments are float32: small updates are lost in bfloat16."""
    config = run.config
    tx = optim.make(config.optim, schedules.make(config.optim, config.train.steps))
    # As a base in bfloat16 would come: what a run makes of it is what counts.
    half = jax.tree.map(_half, Model(params=run.dense, adapter=run.fresh))
    state, _ = states.create(half, config.trainable, tx)
    narrow = [*_narrow("weight", state.trainable), *_narrow("moment", state.opt_state)]
    masters = len(jax.tree.leaves(state.trainable))
    stored = config.model.base_dtype
    reason = f"{masters} arrays train" + (
        f", over a base in {stored}" if stored != "float32" else ""
    )
    if narrow:
        reason = f"without float32 masters updates below 1/256 of a weight are lost: {narrow[0]}"
    return judged(not narrow, f"{len(narrow)} narrower", "float32", reason)


def _half(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x


def _narrow(what: str, values: PyTree) -> list[str]:
    """Floating-point arrays of fewer bits than float32."""
    return [
        f"{what} {path} is {x.dtype}"
        for path, x in tree.items(values)
        if jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
    ]
