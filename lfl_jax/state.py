"""The state of a run: what trains, its optimizer, the step; and, apart from it, everything that
stays frozen."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding
from jaxtyping import Array

from lfl_jax import optim
from lfl_jax.adapters.adapter_tree import constant_mask, named_layers, weight
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.mix import members
from lfl_jax.core import hosts, tree
from lfl_jax.core.pytree import Node
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import AdapterTree, Key, PyTree
from lfl_jax.errors import UserError
from lfl_jax.model import Model

# Of `checkpointables`, what is needed to resume only: the moments are twice as large as what
# trains.
FOR_RESUME = ("optimizer",)


@struct.dataclass
class State(Node):
    """The trainable half of a model, None elsewhere, and how far its optimizer is.

    step: optimizer steps done, int32. A plan has shapes in place of arrays.
    """

    trainable: Model
    opt_state: optax.OptState
    step: Array | jax.ShapeDtypeStruct


def trainable_mask(model: Model, trainable: Sequence[str], frozen: Sequence[str] = ()) -> Model:
    """Bool per leaf: true by the config's patterns, but false in `frozen` and in adapter constants.

    Raises UserError for a pattern that matches nothing, and for a DoRA whose weight trains, too.
    """
    # The first match decides: what is frozen stays so, whatever the config trains.
    patterns = [(pattern, False) for pattern in frozen]
    patterns += [(pattern, True) for pattern in trainable]
    patterns.append((".*", False))
    mask = tree.mask(model, patterns)
    # Scales, reference norms and the like are data of the adapter, whatever the config says.
    constant = constant_mask(model.adapter)
    mask = mask.replace(adapter=jax.tree.map(lambda m, c: m and not c, mask.adapter, constant))
    _check_norms(mask, model.adapter)
    return mask


def _check_norms(mask: Model, adapter: AdapterTree) -> None:
    """UserError where a weight would train under a layer that holds what it once read off it."""
    for path, layer in named_layers(adapter) if adapter else ():
        kinds = [type(m).__name__ for m in members(layer) if type(m).rebind is not Kind.rebind]
        if kinds and any(jax.tree.leaves(weight(mask.params, path))):
            raise UserError(
                f"config.trainable: {path} would train under a {kinds[0]}, which reads its weight's"
                " norms once, at the start; train one of the two"
            )


def create(
    model: Model,
    trainable: Sequence[str],
    tx: optax.GradientTransformation,
    rules: Rules | None = None,
    frozen: Sequence[str] = (),
) -> tuple[State, Model]:
    """(state, frozen half) of a model on the mesh; what trains becomes float32.

    frozen: patterns of leaves that do not train, whatever `trainable` says.
    """
    train, rest = tree.split(model, trainable_mask(model, trainable, frozen))
    # Small updates would be lost in bfloat16.
    train = jax.tree.map(lambda x: x.astype(jnp.float32), train)
    state = State(train, tx.init(train), jnp.int32(0))
    return (_on_mesh(state, rules) if rules else state), rest


def _on_mesh(state: State, rules: Rules) -> State:
    """The state with every array on the mesh: otherwise the second step compiles again."""
    opt_state = put(state.opt_state, optimizer_shardings(state.opt_state, state.trainable, rules))
    everywhere = rules.sharding((), ())
    return state.replace(opt_state=opt_state, step=hosts.put(state.step, everywhere))


def optimizer_shardings(opt_state: PyTree, trainable: Model, rules: Rules) -> PyTree:
    """The sharding of every array of an optimizer's state, or of its shape.

    A moment has that of its weight. Counts of steps and factored moments, which are small, are
    replicated.
    """
    weights = dict(jax.tree_util.tree_leaves_with_path(trainable))

    def leaf(path: tree.KeyPath, x: Array | jax.ShapeDtypeStruct) -> NamedSharding:
        # A moment stands in a tree like that of what trains: its path ends with its weight's.
        suffixes = (path[start:] for start in range(len(path)))
        weight = next((weights[end] for end in suffixes if end in weights), None)
        is_moment = weight is not None and weight.shape == x.shape
        return weight.sharding if is_moment else rules.sharding((), ())

    return jax.tree_util.tree_map_with_path(leaf, opt_state)


def model(state: State, frozen: Model) -> Model:
    """The whole model, of its two halves."""
    return tree.combine(state.trainable, frozen)


def put(tree_: PyTree, shardings: PyTree) -> PyTree:
    """Every leaf put on the mesh by its sharding."""
    return jax.tree.map(hosts.put, tree_, shardings)


def checkpointables(state: State, frozen: Model, key: Key | None) -> dict[str, Any]:
    """The content of a checkpoint.

    That is the whole adapter, the parameters that train, optimizer, step and dropout key.
    """
    return {
        "adapter": model(state, frozen).adapter,
        "params": state.trainable.params,
        "optimizer": optim.to_checkpoint(state.opt_state),
        "step": state.step,
        "rng": None if key is None else jax.random.key_data(key),
    }


def restored(saved: dict[str, Any], state: State, frozen: Model) -> tuple[State, Model]:
    """(state, frozen) with the values of a checkpoint, as `checkpointables` names them."""
    mask = jax.tree.map(
        lambda _, trains: trains is not None, saved["adapter"], state.trainable.adapter
    )
    trains, stays = tree.split(saved["adapter"], mask)
    trainable = Model(params=saved["params"], adapter=trains)
    optimizer = optim.from_checkpoint(saved["optimizer"], state.opt_state)
    return State(trainable, optimizer, saved["step"]), frozen.replace(adapter=stays)
