"""A kernel on a mesh: the partitioner cannot look into one, so every device runs it on its shard.

Rows are split over the mesh axes that split a batch (data and fsdp), W over the others (tensor).
W's shards along fsdp are gathered before, as they are stored: 4 bits a parameter for NF4. Where the
contracted axis is split, the partial products are added up; (x A * routing) B is linear in x A, so
that its parts add up with them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.core.sharding import Rules, mesh_axes
from lfl_jax.core.types import Weight
from lfl_jax.kernels.low_rank.reference import (
    XLA,
    Backward,
    Forward,
    Implementation,
    Implementations,
)
from lfl_jax.kernels.low_rank.selection import choose


class Split(NamedTuple):
    """The mesh axes that split rows, I and O, none or more of each."""

    rows: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def choose_on(
    rules: Rules | None, axes: tuple[str, ...], w: Weight, rows: int, rank: int
) -> Implementations:
    """The table's choice on a mesh: by the shape that a device has of W (I, O) and its rows.

    axes: the logical axes of W, such as ("embed", "heads"); without rules, or on one device, they
    do not matter.
    """
    if rules is None or rules.mesh.size == 1:
        return choose(w, rows, rank)
    shards = tuple(_devices(rules, names) for names in split(rules, axes, w, rows))
    device = rules.mesh.devices.flat[0].device_kind
    chosen = choose(w, rows, rank, shards=shards, device=device)
    # XLA's products are partitioned by the compiler.
    return Implementations(*(one if one == XLA() else Sharded(one, rules, axes) for one in chosen))


@dataclasses.dataclass(frozen=True)
class Sharded:
    """An implementation from another that sees one device; axes: the logical axes of W."""

    inner: Implementation
    rules: Rules
    axes: tuple[str, ...]

    def forward(
        self,
        x: Float[Array, "N I"],
        w: Weight,
        a: Float[Array, "I R"],
        b: Float[Array, "R O"],
        routing: Float[Array, "N R"] | None,
    ) -> Forward:
        """(y, x A), both of which contract I."""
        split_over = split(self.rules, self.axes, w, x.shape[0])
        rows, inputs, outputs = split_over
        # x W and x A contract I: where a mesh axis splits it, each device has a part of the sum
        run = _summed(self.inner.forward, over=inputs)
        mapped = self._per_shard(run, split_over, P(rows, inputs), P(rows, outputs), w)
        return mapped(x, _with_one_level(w), a, b, routing)

    def backward(
        self,
        dy: Float[Array, "N O"],
        w: Weight,
        a: Float[Array, "I R"],
        b: Float[Array, "R O"],
        routing: Float[Array, "N R"] | None,
    ) -> Backward:
        """(dx, dy B^T), both of which contract O."""
        split_over = split(self.rules, self.axes, w, dy.shape[0])
        rows, inputs, outputs = split_over
        run = _summed(self.inner.backward, over=outputs)
        mapped = self._per_shard(run, split_over, P(rows, outputs), P(rows, inputs), w)
        return mapped(dy, _with_one_level(w), a, b, routing)

    def _per_shard(
        self, run: Callable, split_over: Split, operand: P, result: P, w: Weight
    ) -> Callable:
        """run(operand, w, a, b, routing) -> (result, ranks) on every device's shards of them."""
        rows, inputs, outputs = split_over
        weight = jax.tree.map(
            # a quantised W's scale of every output unit (O,) is split as the units are
            lambda leaf: P(inputs, outputs) if leaf.ndim == 2 else P(outputs),
            _with_one_level(w),
        )
        return jax.shard_map(
            run,
            mesh=self.rules.mesh,
            in_specs=(operand, weight, P(inputs, None), P(None, outputs), P(rows, None)),
            out_specs=(result, P(rows, None)),
            check_vma=False,
        )


def _summed(run: Callable[..., Forward | Backward], over: tuple[str, ...]) -> Callable:
    """run on one device's shards, summed over the mesh axes that split what it contracts."""

    def local(
        operand: Float[Array, "N _"],
        w: Weight,
        a: Float[Array, "I R"],
        b: Float[Array, "R O"],
        routing: Float[Array, "N R"] | None,
    ) -> tuple[Float[Array, "N _"], Float[Array, "N R"]]:
        # NF4's row count is static: a shard's is that of its share of A.
        w = w.replace(rows=a.shape[0]) if isinstance(w, quant.NF4) else w
        partial_sums = run(operand, w, a, b, routing)
        return jax.lax.psum(partial_sums, over) if over else partial_sums

    return local


def split(rules: Rules, axes: tuple[str, ...], w: Weight, rows: int) -> Split:
    """How a mesh splits rows and W; a quantised W is split along I between whole blocks only."""
    block = quant.nf4.BLOCK if isinstance(w, quant.NF4) else 1
    # as if I had one element a block: what divides those divides I between blocks
    blocks = w.shape[0] // block if w.shape[0] % block == 0 else 1
    (by_rows,) = rules.partition(("batch",), (rows,))
    by_inputs, by_outputs = rules.partition(axes, (blocks, w.shape[1]))

    # Mesh axes that split the batch hold other rows: W is gathered along them.
    batch = dict(rules.table)["batch"]
    inputs = tuple(name for name in mesh_axes(by_inputs) if name not in batch)
    outputs = tuple(name for name in mesh_axes(by_outputs) if name not in batch)
    return Split(mesh_axes(by_rows), inputs, outputs)


def _devices(rules: Rules, names: tuple[str, ...]) -> int:
    """How many parts these mesh axes split an axis into."""
    return math.prod(rules.mesh.shape[name] for name in names)


def _with_one_level(w: Weight) -> Weight:
    """NF4 with the second level of its scales undone.

    That level runs through the whole weight, and has no shards.
    """
    if not isinstance(w, quant.NF4):
        return w
    return w.replace(absmax=quant.nf4.absmax(w), scale=None, offset=None)
