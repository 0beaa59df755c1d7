"""The state of a run: what trains, its optimizer, the step; and, apart from it, everything that
stays frozen."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding

from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.mix import members
from lfl_jax.adapters.trees import constants, named_layers, weight
from lfl_jax.core import tree
from lfl_jax.core.pytree import Node
from lfl_jax.core.sharding import Rules
from lfl_jax.errors import UserError

# Of `checkpointables`, what is needed to resume only: the moments are twice as large as what
# trains.
FOR_RESUME = ("optimizer",)


@struct.dataclass
class State(Node):
    """trainable: the trainable half of {"params", "adapter"}, None elsewhere. step: optimizer steps
    done, int32."""

    trainable: Any
    opt_state: Any
    step: Any


def trainable_mask(model: dict, trainable: Sequence[str], frozen: Sequence[str] = ()) -> Any:
    """Bool per leaf of {"params", "adapter"}: the config's patterns, but those in `frozen` and
    adapter constants never.

    Raises UserError for a pattern that matches nothing, and for a DoRA whose weight trains, too.
    """
    patterns = (*((p, False) for p in frozen), *((p, True) for p in trainable), (".*", False))
    wanted = tree.mask(model, patterns)
    never = constants(model["adapter"])
    mask = wanted | {"adapter": jax.tree.map(lambda w, c: w and not c, wanted["adapter"], never)}
    _check_norms(mask, model["adapter"])
    return mask


def _check_norms(mask: dict, adapter: dict) -> None:
    """UserError where a weight would train under a layer that holds what it once read off it."""
    for path, layer in named_layers(adapter) if adapter else ():
        held = [type(m).__name__ for m in members(layer) if type(m).rebind is not Kind.rebind]
        if held and any(jax.tree.leaves(weight(mask["params"], path))):
            raise UserError(
                f"config.trainable: {path} would train under a {held[0]}, which reads its weight's"
                " norms once, at the"
                " start; train one of the two"
            )


def create(
    model: dict,
    trainable: Sequence[str],
    tx: optax.GradientTransformation,
    rules: Rules | None = None,
    frozen: Sequence[str] = (),
) -> tuple[State, Any]:
    """(state, frozen half) of {"params": ..., "adapter": ...} on the mesh; what trains becomes
    float32.

    frozen: patterns of leaves that do not train, whatever `trainable` says.
    """
    train, rest = tree.split(model, trainable_mask(model, trainable, frozen))
    train = jax.tree.map(lambda x: x.astype(jnp.float32), train)
    state = State(train, tx.init(train), jnp.int32(0))
    return (_on_mesh(state, rules) if rules else state), rest


def _on_mesh(state: State, rules: Rules) -> State:
    """What is not there yet, on every device: else the second step compiles anew.

    Moments have the sharding of their weights already. Counts of steps are put there, and factored
    moments, small.
    """
    everywhere = rules.sharding((), ())

    def put(x: jax.Array) -> jax.Array:
        placed = x.ndim > 0 and isinstance(x.sharding, NamedSharding)
        return x if placed else jax.device_put(x, everywhere)

    return jax.tree.map(put, state)


def model(state: State, frozen: Any) -> dict:
    """{"params", "adapter"} again."""
    return tree.combine(state.trainable, frozen)


def put(tree_: Any, shardings: Any) -> Any:
    """Every leaf placed by its sharding."""
    return jax.tree.map(jax.device_put, tree_, shardings)


def batch_sharding(rules: Rules, shape: tuple[int, ...]) -> Any:
    """Sharding of a batch array (A, B, T): sequences over data and fsdp."""
    return rules.sharding(("layers", "batch", "time"), shape)


def checkpointables(state: State, frozen: Any, key: Any) -> dict[str, Any]:
    """What a checkpoint holds: the whole adapter, the parameters that train, optimizer, step and
    dropout key."""
    return {
        "adapter": model(state, frozen)["adapter"],
        "params": state.trainable["params"],
        "optimizer": state.opt_state,
        "step": state.step,
        "rng": None if key is None else jax.random.key_data(key),
    }


def restored(saved: dict[str, Any], state: State, frozen: Any) -> tuple[State, Any]:
    """(state, frozen) with what a checkpoint held in place of what they hold."""
    mask = jax.tree.map(
        lambda _, trains: trains is not None, saved["adapter"], state.trainable["adapter"]
    )
    adapter = tree.split(saved["adapter"], mask)
    trainable = {"params": saved["params"], "adapter": adapter[0]}
    return State(trainable, saved["optimizer"], saved["step"]), frozen | {"adapter": adapter[1]}
