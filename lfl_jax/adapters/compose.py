"""The algebra of adapters: functions from adapter trees to adapter trees, in the space of dW.

Inputs are never written to, so no function takes a merged adapter out again: `build.merge` returns
new parameters, and to unmerge is to use the old ones. Arrays that layers share (VeRA's) come along
while a layer reads them; adapters with different ones are refused.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from lfl_jax.adapters import replaced_parameters
from lfl_jax.adapters.adapter_tree import (
    Adapter,
    as_adapter,
    as_layer,
    as_params,
    layers_of,
    needs_shared,
    weight,
)
from lfl_jax.adapters.kind import Kind, only_low_rank
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import AdapterLayer, Mix, StackedFactors, count, members
from lfl_jax.core.types import AdapterTree, Params, PyTree
from lfl_jax.errors import UserError

# The layers of one weight, one for each adapter; None where an adapter is missing.
Layers: TypeAlias = Sequence[AdapterLayer | None]
# (M,), one for each adapter.
Weights: TypeAlias = ArrayLike | Sequence[ArrayLike]
# (path of the weight, its layers) -> the layer of the result.
AtWeight: TypeAlias = Callable[[str, Layers], AdapterLayer | None]


def add(*adapters: Adapter) -> AdapterTree:
    """The adapter whose dW is the sum, with the summands as columns of the routing weights.

    Columns follow the order of the summands only at weights that all of them adapt; `stack` keeps
    it everywhere. UserError for adapters of different models.
    """

    def join(path: str, layers: Layers) -> AdapterLayer | None:
        # For its error alone: layers of different models would fail later, inside of a product.
        _weight_shape("add", path, layers)
        return as_layer([member for layer in layers for member in members(layer)])

    return zip_layers("add", join, *adapters)


def scale(adapter: Adapter, factor: ArrayLike) -> AdapterTree:
    """The adapter whose dW is factor · dW; factor: a number, or one for each layer (L,)."""

    def scaled(path: str, layers: Layers) -> AdapterLayer | None:
        return None if layers[0] is None else _scaled(path, layers[0], factor)

    return zip_layers("scale", scaled, adapter)


def negate(adapter: Adapter) -> AdapterTree:
    """The adapter whose dW is -dW."""
    return scale(adapter, -1.0)


def interpolate(a: Adapter, b: Adapter, t: ArrayLike) -> AdapterTree:
    """The adapter whose dW is (1 - t) dW_a + t dW_b; t may be traced, and lie outside of 0 to 1.

    At t = 0 and t = 1 the values of dW are exactly a's and b's, as long as the other's are finite.
    """
    # Two summands: dW = A B is not linear in the pair (A, B), so factors are not averaged.
    return add(scale(a, 1 - t), scale(b, t))


def stack(
    *adapters: Adapter, weights: Weights | None = None, params: Params | None = None
) -> AdapterTree:
    """The adapters unmerged: column m of the routing weights is adapter m at every weight.

    weights: (M,) factors on dW, possibly traced; None is all ones. An adapter that is missing at a
    weight is a LoRA of rank 0 there, which costs nothing. params: needed only where no adapter
    present tells the weight's shape (LoRA and its relatives, VeRA and FullDelta do). UserError for
    an adapter that is a Mix itself, and for shapes that differ.
    """
    factors = None if weights is None else check_weights("stack", adapters, weights)

    def join(path: str, layers: Layers) -> Mix | None:
        group = [_only_member(path, m, layer) for m, layer in enumerate(layers)]
        if all(member is None for member in group):
            return None

        # The shape is for the LoRA of rank 0 of an adapter that is missing here.
        shape = _weight_shape("stack", path, group)
        if any(member is None for member in group):
            shape = shape or _shape_in(params, path)
            group = [_absent(shape) if member is None else member for member in group]

        if factors is not None:
            group = [member.scaled(f) for member, f in zip(group, factors, strict=True)]
        return Mix(tuple(group))

    return zip_layers("stack", join, *adapters)


def select(stacked: Adapter, index: int) -> AdapterTree:
    """Adapter `index` of a `stack`, from 0: the same arrays, scaled if there were weights.

    UserError for an adapter that is not a stack, or has no such member.
    """

    def pick(path: str, layers: Layers) -> AdapterLayer | None:
        layer = layers[0]
        if layer is None:
            return None
        if not isinstance(layer, Mix | StackedFactors):
            raise UserError(
                f"select: {path} holds a {type(layer).__name__}; expected what stack returns, a Mix"
            )
        if not 0 <= index < count(layer):
            raise UserError(
                f"select: there is no member {index}; {path} has {count(layer)}, counted from 0"
            )
        member = layer.layers[index]
        # rank 0 is how `stack` writes that this adapter is missing here
        return None if isinstance(member, LoRA) and member.a.shape[-1] == 0 else member

    selected = zip_layers("select", pick, stacked)
    # `stack` gives every weight one column per adapter, and `add` does not.
    counts = {count(layer) for layer in layers_of(stacked)}
    if len(counts) > 1:
        raise UserError(
            f"select: weights have {sorted(counts)} members; expected what stack returns: all the"
            " same"
        )
    return selected


def route(ids: Int[Array | np.ndarray, "B *T"], members: int) -> Float[Array, "B *T M"]:
    """One-hot routing weights: each example (B,) or token (B, T) uses one member, or none at -1.

    The ids themselves can be passed as routing, which is faster for many members. UserError as for
    `check_ids`.
    """
    check_ids("route", ids, members)
    # -1 is outside of every class: its row is 0, which is the base.
    return jax.nn.one_hot(ids, members, dtype=jnp.float32)


def check_ids(name: str, ids: Int[Array | np.ndarray, "..."], members: int) -> None:
    """UserError, which starts with `name`, for ids outside of -1 to members - 1.

    Traced ids have no values to check: with such an id the base is computed.
    """
    if isinstance(ids, jax.core.Tracer) or not ids.size:
        return
    values = np.asarray(ids)  # in numpy, so that a constant in a traced function is checked too
    low, high = int(values.min()), int(values.max())
    if low < -1 or high >= members:
        raise UserError(
            f"{name}: ids from {low} to {high}; expected -1 (the base) to {members - 1}"
        )


def fuse(adapter: Adapter) -> AdapterTree:
    """One LoRA, ranks concatenated, where all members at a weight are low-rank.

    dW is the same, with a single column of routing weights. LoRA, PiSSA, OLoRA, LoftQ and VeRA are
    low-rank, and so are StackedFactors; weights with members of other kinds stay as they are.
    VeRA's shared A and B are multiplied in, and no longer needed.
    """
    shared = as_adapter("fuse", adapter).get("shared")

    def join(path: str, layers: Layers) -> AdapterLayer | None:
        group = members(layers[0])
        if not group or not all(only_low_rank(member) for member in group):
            return group[0] if len(group) == 1 else layers[0]
        # Already in this form: the arrays themselves, not copies.
        if len(group) == 1 and type(group[0]) is LoRA:
            return group[0]

        # vmap: a kind's methods see one layer of the stack
        factors_of = jax.vmap(lambda member: member.with_shared(shared).low_rank(None))
        a, scale, b = zip(*(factors_of(member) for member in group), strict=True)
        return LoRA(
            a=jnp.concatenate(a, axis=-1),
            b=jnp.concatenate(b, axis=-2),
            scale=jnp.concatenate(scale, axis=-1),
        )

    return zip_layers("fuse", join, adapter)


def zip_layers(name: str, function: AtWeight, *adapters: Adapter) -> AdapterTree:
    """An adapter of function(path, layers) at every weight that any of the trees has.

    Shared arrays are kept where a layer reads them, and so is which parameters the adapters
    replace. UserError, which starts with `name`, for no adapters, for what is none, and when the
    adapters' shared arrays differ.
    """
    layers = map_weights(name, function, *adapters)
    result = {"layers": layers} | replaced_parameters.combined(adapters)

    # shared arrays come along only where a layer of the result reads them
    trees = [as_adapter(name, adapter) for adapter in adapters]
    shared = [tree["shared"] for tree in trees if "shared" in tree and needs_shared(tree)]
    if not shared or not needs_shared(result):
        return result
    if not all(_are_equal(shared[0], other) for other in shared):
        raise UserError(
            f"{name}: the adapters' 'shared' arrays differ, and layers of one tree share them;"
            " fuse(adapter) multiplies VeRA's in, and makes each a LoRA that can be combined;"
            " magnitude_prune(adapters, params, weights, 1.0) adds up changes of any kind"
        )
    return result | {"shared": shared[0]}


def map_weights(name: str, function: AtWeight, *adapters: Adapter) -> PyTree:
    """The tree of function(path, layers) at every weight: the "layers" of `zip_layers`."""
    if not adapters:
        raise UserError(f"{name}: no adapters given; expected at least one")
    nodes = tuple(as_adapter(name, adapter)["layers"] for adapter in adapters)
    return _map_nodes(name, function, "layers", nodes)


def _map_nodes(name: str, function: AtWeight, path: str, nodes: tuple[PyTree, ...]) -> PyTree:
    """One node of each tree, None where a tree has nothing here.

    jax.tree.map needs trees of one structure; these may adapt different weights.
    """
    # Exact types: a kind, or a NamedTuple, is a leaf.
    branches = [node for node in nodes if type(node) in (dict, tuple)]
    if not branches:
        return function(path, nodes)

    # unstacked layers: a tuple of one tree per layer
    if all(type(node) is tuple for node in nodes) and len({len(node) for node in nodes}) == 1:
        by_layer = enumerate(zip(*nodes, strict=True))
        return tuple(_map_nodes(name, function, f"{path}/{i}", layer) for i, layer in by_layer)

    if not all(node is None or type(node) is dict for node in nodes):
        raise UserError(
            f"{name}: the adapters' trees differ at {path}; are some stacked and others not?"
        )
    result = {}
    # a dict and not a set: keys stay in the order of the trees
    for key in dict.fromkeys(key for node in branches for key in node):
        children = tuple(None if node is None else node.get(key) for node in nodes)
        result[key] = _map_nodes(name, function, f"{path}/{key}", children)
    return result


def check_weights(
    name: str, adapters: Sequence[Adapter] | dict, weights: Weights
) -> Float[Array, " M"]:
    """The weights as an array, one for each adapter.

    Raises UserError, which starts with `name`, for another number of weights, and for an adapter in
    place of a list of them.
    """
    if not isinstance(adapters, list | tuple):
        raise UserError(
            f"{name}: got a {type(adapters).__name__}; expected the adapters as a list, [a, b]"
        )
    values = jnp.asarray(weights, jnp.float32)
    if values.shape != (len(adapters),):
        raise UserError(
            f"{name}: weights of shape {values.shape}; expected one for each of {len(adapters)}"
            " adapters"
        )
    return values


def _are_equal(x: PyTree, y: PyTree) -> bool:
    """Whether two trees are one object, or of one structure and values; traced values differ."""
    if x is y:
        return True
    if jax.tree.structure(x) != jax.tree.structure(y):
        return False
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return all(p is q or (not _is_traced(p, q) and bool(jnp.array_equal(p, q))) for p, q in pairs)


def _is_traced(*arrays: ArrayLike) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in arrays)


def _only_member(path: str, index: int, layer: AdapterLayer | None) -> Kind | None:
    group = members(layer)
    if len(group) > 1:
        kinds = " and ".join(type(member).__name__ for member in group)
        raise UserError(
            f"stack: adapter {index} is a mix of {kinds} at {path}; fuse it, or stack its members"
        )
    return group[0] if group else None


def _scaled(path: str, layer: AdapterLayer, factor: ArrayLike) -> AdapterLayer:
    """A layer times a number, or times one for each of a stack."""
    shape = jnp.shape(factor)
    if shape == ():
        return layer.scaled(factor)
    # Every array of a stacked layer has the layers as its first axis.
    size = jax.tree.leaves(layer)[0].shape[0]
    # "layers/3/attn/q" is a single layer, without an axis to scale along.
    is_unstacked = path.split("/")[1].isdigit()
    if shape != (size,) or is_unstacked:
        raise UserError(
            f"scale: a factor of shape {shape}; expected a number, or one for each layer of a"
            " stack, (L,)"
        )
    return jax.vmap(lambda x, f: x.scaled(f))(layer, jnp.asarray(factor))


def _weight_shape(name: str, path: str, layers: Layers) -> tuple[int, ...] | None:
    """The adapted weight's shape as these layers tell it, None when none does.

    Raises UserError when they disagree: those are adapters of different models.
    """
    # None: the arrays of this kind do not tell it.
    shapes = {member.weight_shape() for layer in layers for member in members(layer)} - {None}
    if len(shapes) > 1:
        raise UserError(
            f"{name}: adapters of different models: {path} is"
            f" {' and '.join(map(str, sorted(shapes)))}"
        )
    return shapes.pop() if shapes else None


def _shape_in(params: Params | None, path: str) -> tuple[int, ...]:
    if params is None:
        raise UserError(
            f"stack: an adapter is missing at {path}, and the others do not tell its shape; give"
            " params="
        )
    return weight(as_params("stack", params), path).shape


def _absent(shape: tuple[int, ...]) -> LoRA:
    """A member that changes nothing at a weight of this shape, (I, O) or (L, I, O)."""
    *stack, fan_in, fan_out = shape
    return LoRA(
        a=jnp.zeros((*stack, fan_in, 0)),
        b=jnp.zeros((*stack, 0, fan_out)),
        scale=jnp.zeros((*stack, 0)),
    )
