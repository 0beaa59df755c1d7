"""The algebra of adapters: functions from adapter trees to adapter trees, in the space of weight
changes.

Inputs are never written to, so there is no function that takes a merged adapter out again:
`build.merge` returns new parameters, and unmerging is going back to the old ones, to the last bit.
Arrays that layers share (VeRA's) are carried along while a layer reads them; adapters with
different ones are refused.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lfl_jax.adapters import replaced_parameters
from lfl_jax.adapters.adapter_tree import Adapter, as_adapter, as_params, needs_shared, weight
from lfl_jax.adapters.kind import only_low_rank
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import Mix, StackedFactors, members
from lfl_jax.errors import UserError


def add(*adapters: Adapter) -> dict:
    """The adapter whose dW is the sum: a Mix wherever more than one is present, with the summands
    as routing columns.

    Columns follow the order of the summands only at weights that all of them adapt; `stack` keeps
    it everywhere.
    """

    def join(path: str, layers: tuple[Any, ...]) -> Any:
        _shape("add", path, layers)
        found = tuple(m for layer in layers for m in members(layer))
        if not found:
            return None
        return found[0] if len(found) == 1 else Mix(found)

    return zip_layers("add", join, *adapters)


def scale(adapter: Adapter, factor: Any) -> dict:
    """The adapter whose dW is factor · dW; factor: a number, or one for each layer of the model,
    (L,)."""
    return zip_layers(
        "scale", lambda path, layers: layers[0] and _scaled(path, layers[0], factor), adapter
    )


def negate(adapter: Adapter) -> dict:
    """The adapter whose dW is -dW."""
    return scale(adapter, -1.0)


def interpolate(a: Adapter, b: Adapter, t: Any) -> dict:
    """The adapter whose dW is (1 - t) dW_a + t dW_b; t may be traced, and lie outside of 0 to 1.

    At t = 0 and t = 1 the values of dW are exactly a's and b's, as long as the other's are finite.
    """
    return add(scale(a, 1 - t), scale(b, t))


def stack(*adapters: Adapter, weights: Any = None, params: dict | None = None) -> dict:
    """The adapters kept apart: a Mix of all of them at every weight that any adapts, so routing
    column m is adapter m.

    weights: (M,) factors on dW, possibly traced; None is all ones. An adapter that is missing at a
    weight is a LoRA of rank 0 there, which costs nothing. params: needed only where no adapter
    present tells the weight's shape (LoRA and its relatives, VeRA and FullDelta do). UserError for an adapter that is
    a Mix itself, and for shapes that differ.
    """
    factors = None if weights is None else check_weights("stack", adapters, weights)

    def join(path: str, layers: tuple[Any, ...]) -> Any:
        if all(layer is None for layer in layers):
            return None
        group = tuple(_only_member(path, m, layer) for m, layer in enumerate(layers))
        if any(member is None for member in group):
            shape = _shape("stack", path, group) or _shape_in(params, path)
            group = tuple(_absent(shape) if member is None else member for member in group)
        _shape("stack", path, group)
        return Mix(
            group
            if factors is None
            else tuple(m.scaled(f) for m, f in zip(group, factors, strict=True))
        )

    return zip_layers("stack", join, *adapters)


def select(stacked: dict, index: int) -> dict:
    """The adapter that `stack` put in this place, from 0: the same arrays, scaled if there were
    weights.

    UserError for an adapter that is not a stack, or has no such member.
    """

    def pick(path: str, layers: tuple[Any, ...]) -> Any:
        layer = layers[0]
        if layer is None:
            return None
        if not isinstance(layer, Mix | StackedFactors):
            raise UserError(
                f"select: {path} holds a {type(layer).__name__}; expected what stack returns, a Mix"
            )
        if not 0 <= index < len(layer.layers):
            raise UserError(
                f"select: there is no member {index}; {path} has {len(layer.layers)}, counted from"
                " 0"
            )
        counts.add(len(layer.layers))
        member = layer.layers[index]
        return None if isinstance(member, LoRA) and member.a.shape[-1] == 0 else member

    counts: set[int] = set()
    found = zip_layers("select", pick, stacked)
    if len(counts) > 1:
        raise UserError(
            f"select: weights have {sorted(counts)} members; expected what stack returns: all the"
            " same"
        )
    return found


def route(ids: Int[Array | np.ndarray, "B *T"], members: int) -> Float[Array, "B *T M"]:
    """The routing that sends each example (B,) or token (B, T) to one member of a stack; id -1 is
    the base.

    The ids themselves are a routing, too, and the faster one for many members. UserError as for
    `check_ids`.
    """
    check_ids("route", ids, members)
    return jax.nn.one_hot(ids, members, dtype=jnp.float32)


def check_ids(name: str, ids: Int[Array | np.ndarray, "..."], members: int) -> None:
    """UserError, which starts with `name`, for ids outside of -1 to members - 1. Traced ids cannot
    be looked at: there, such an id is the base."""
    if isinstance(ids, jax.core.Tracer) or not ids.size:
        return
    values = np.asarray(ids)  # of a constant inside of a traced function, too
    low, high = int(values.min()), int(values.max())
    if low < -1 or high >= members:
        raise UserError(
            f"{name}: ids from {low} to {high}; expected -1 (the base) to {members - 1}"
        )


def fuse(adapter: Adapter) -> dict:
    """One LoRA, ranks side by side, where all members at a weight are low-rank: the same dW, and a
    single routing column.

    LoRA, PiSSA, OLoRA, LoftQ and VeRA are low-rank, and so are StackedFactors. Weights with members
    of other kinds stay as they are. VeRA's shared A and B, once multiplied in, are gone.
    """
    shared = as_adapter("fuse", adapter).get("shared")

    def join(path: str, layers: tuple[Any, ...]) -> Any:
        group = members(layers[0])
        if not group or not all(only_low_rank(member) for member in group):
            return group[0] if len(group) == 1 else layers[0]
        if len(group) == 1 and type(group[0]) is LoRA:
            return group[0]
        parts = [
            jax.vmap(lambda x: x.with_shared(shared).low_rank(None))(member) for member in group
        ]
        a, scale, b = zip(*parts, strict=True)
        return LoRA(*(jnp.concatenate(x, axis) for x, axis in ((a, -1), (b, -2), (scale, -1))))

    return zip_layers("fuse", join, adapter)


def zip_layers(
    name: str, function: Callable[[str, tuple[Any, ...]], Any], *adapters: Adapter
) -> dict:
    """An adapter of function(path, layers) at every weight that is in any tree; None stands for a
    missing layer.

    Shared arrays are kept where a layer reads them, and which parameters came along with an
    adapter. UserError, which starts with `name`, when the adapters' shared arrays differ,
    for no adapters, and for what is none.
    """
    found = {"layers": visit(name, function, *adapters)} | replaced_parameters.combined(adapters)
    shared = [
        a["shared"]
        for a in map(partial(as_adapter, name), adapters)
        if "shared" in a and needs_shared(a)
    ]
    if not shared or not needs_shared(found):
        return found
    if not all(_same(shared[0], other) for other in shared):
        raise UserError(
            f"{name}: the adapters' 'shared' arrays differ, and layers of one tree share them;"
            " fuse(adapter) multiplies"
            " them in, and makes each a LoRA that can be combined"
        )
    return found | {"shared": shared[0]}


def visit(name: str, function: Callable[[str, tuple[Any, ...]], Any], *adapters: Adapter) -> Any:
    """The layers of `zip_layers`, without what stands beside them."""
    if not adapters:
        raise UserError(f"{name}: no adapters given; expected at least one")
    return _visit(
        name, function, "layers", tuple(as_adapter(name, adapter)["layers"] for adapter in adapters)
    )


def _visit(name: str, function: Callable, path: str, nodes: tuple[Any, ...]) -> Any:
    branches = [node for node in nodes if type(node) in (dict, tuple)]
    if not branches:
        return function(path, nodes)
    if all(type(node) is tuple for node in nodes) and len({len(node) for node in nodes}) == 1:
        return tuple(
            _visit(name, function, f"{path}/{i}", each)
            for i, each in enumerate(zip(*nodes, strict=True))
        )
    if not all(node is None or type(node) is dict for node in nodes):
        raise UserError(
            f"{name}: the adapters' trees differ at {path}; are some stacked and others not?"
        )
    keys = dict.fromkeys(key for node in branches for key in node)
    columns = {k: tuple(None if n is None else n.get(k) for n in nodes) for k in keys}
    return {k: _visit(name, function, f"{path}/{k}", column) for k, column in columns.items()}


def check_weights(
    name: str, adapters: Sequence[Adapter] | dict, weights: Any
) -> Float[Array, " M"]:
    """The weights as an array, one for each adapter; UserError, which starts with `name`, for
    another number."""
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


def _same(x: Any, y: Any) -> bool:
    if x is y:
        return True
    if jax.tree.structure(x) != jax.tree.structure(y):
        return False
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return all(p is q or (not _traced(p, q) and bool(jnp.array_equal(p, q))) for p, q in pairs)


def _traced(*arrays: Any) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in arrays)


def _only_member(path: str, index: int, layer: Any) -> Any:
    group = members(layer)
    if len(group) > 1:
        kinds = " and ".join(type(member).__name__ for member in group)
        raise UserError(
            f"stack: adapter {index} is a mix of {kinds} at {path}; fuse it, or stack its members"
        )
    return group[0] if group else None


def _scaled(path: str, layer: Any, factor: Any) -> Any:
    """A layer times a number, or times one for each of a stack."""
    shape = jnp.shape(factor)
    if shape == ():
        return layer.scaled(factor)
    size = jax.tree.leaves(layer)[0].shape[0]
    if shape != (size,) or path.split("/")[1].isdigit():
        raise UserError(
            f"scale: a factor of shape {shape}; expected a number, or one for each layer of a"
            " stack, (L,)"
        )
    return jax.vmap(lambda x, f: x.scaled(f))(layer, jnp.asarray(factor))


def _shape(name: str, path: str, layers: tuple[Any, ...]) -> tuple[int, ...] | None:
    """The adapted weight's shape as these layers tell it, None when none does. UserError when they
    disagree."""
    shapes = {member.weight_shape() for layer in layers for member in members(layer)} - {None}
    if len(shapes) > 1:
        raise UserError(
            f"{name}: adapters of different models: {path} is"
            f" {' and '.join(map(str, sorted(shapes)))}"
        )
    return shapes.pop() if shapes else None


def _shape_in(params: dict | None, path: str) -> tuple[int, ...]:
    if params is None:
        raise UserError(
            f"stack: an adapter is missing at {path}, and the others do not tell its shape; give"
            " params="
        )
    return weight(as_params("stack", params), path).shape


def _absent(shape: tuple[int, ...]) -> LoRA:
    """A member that changes nothing at a weight of this shape."""
    *stack, fan_in, fan_out = shape
    return LoRA(
        a=jnp.zeros((*stack, fan_in, 0)),
        b=jnp.zeros((*stack, 0, fan_out)),
        scale=jnp.zeros((*stack, 0)),
    )
