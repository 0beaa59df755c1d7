"""A kernel on a mesh: the partitioner cannot look into one, so every device runs it on its shard.

Rows are split over the mesh axes that split a batch (data and fsdp), W over the others (tensor).
W's shards along fsdp
are gathered before, as they are stored: 4 bits a parameter for NF4. Where the contracted axis is
split, the partial products are added up; (x A * routing) B is linear in x A, so that its parts add
up with them.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from lfl_jax import quant
from lfl_jax.core.sharding import Rules
from lfl_jax.kernels.low_rank.reference import XLA
from lfl_jax.kernels.low_rank.selection import choose


def choose_on(
    rules: Rules | None, axes: tuple[str, ...], w: Any, rows: int, rank: int
) -> tuple[Any, Any]:
    """The table's choice for both passes on a mesh: by the shape that a device has of W (I, O) and
    its rows.

    axes: the logical axes of W, such as ("embed", "heads"); without rules, or on one device, they
    do not matter.
    """
    if rules is None or rules.mesh.size == 1:
        return choose(w, rows, rank)
    sizes = rules.mesh.shape
    shards = tuple(
        math.prod(sizes[name] for name in names) for names in split(rules, axes, w, rows)
    )
    passes = choose(w, rows, rank, shards=shards, device=rules.mesh.devices.flat[0].device_kind)
    return tuple(each if each == XLA() else Sharded(each, rules, axes) for each in passes)


@dataclasses.dataclass(frozen=True)
class Sharded:
    """An implementation from another that sees one device; axes: the logical axes of W."""

    inner: Any
    rules: Rules
    axes: tuple[str, ...]

    def forward(self, x: Any, w: Any, a: Any, b: Any, routing: Any) -> tuple[Any, Any]:
        """(y, x A)."""
        parts = rows, i, o = split(self.rules, self.axes, w, x.shape[0])
        return self._mapped(self.inner.forward, parts, P(rows, i), P(rows, o), i)(
            x, _one_level(w), a, b, routing
        )

    def backward(self, dy: Any, w: Any, a: Any, b: Any, routing: Any) -> tuple[Any, Any]:
        """(dx, dy B^T)."""
        parts = rows, i, o = split(self.rules, self.axes, w, dy.shape[0])
        return self._mapped(self.inner.backward, parts, P(rows, o), P(rows, i), o)(
            dy, _one_level(w), a, b, routing
        )

    def _mapped(self, run: Any, parts: Any, taken: Any, given: Any, summed: Any) -> Any:
        """run on every shard; summed: the mesh axes over which its results are parts of a sum."""
        rows, i, o = parts

        def local(v: Any, w: Any, a: Any, b: Any, routing: Any) -> Any:
            found = run(
                v, w.replace(rows=a.shape[0]) if isinstance(w, quant.NF4) else w, a, b, routing
            )
            return jax.lax.psum(found, summed) if summed else found

        def call(v: Any, w: Any, *others: Any) -> Any:
            weight = jax.tree.map(lambda leaf: P(i, o) if leaf.ndim == 2 else P(o), w)
            specs = (taken, weight, P(i, None), P(None, o), P(rows, None))
            mapped = jax.shard_map(
                local,
                mesh=self.rules.mesh,
                in_specs=specs,
                out_specs=(given, P(rows, None)),
                check_vma=False,
            )
            return mapped(v, w, *others)

        return call


def split(rules: Rules, axes: tuple[str, ...], w: Any, rows: int) -> tuple[tuple[str, ...], ...]:
    """The mesh axes that split rows, I and O, none or more of each; a quantised I only between
    whole blocks."""
    block = quant.nf4.BLOCK if isinstance(w, quant.NF4) else 1
    weight = rules.partition(
        axes, (w.shape[0] // block if w.shape[0] % block == 0 else 1, w.shape[1])
    )
    # a PartitionSpec holds a single name as a string
    by_rows, *others = (
        (names,) if isinstance(names, str) else names or ()
        for names in (*rules.partition(("batch",), (rows,)), *weight)
    )
    batch = dict(rules.table)["batch"]
    return by_rows, *(tuple(name for name in names if name not in batch) for names in others)


def _one_level(w: Any) -> Any:
    """NF4 with its second level undone: that one runs through the whole weight, and has no
    shards."""
    return (
        w.replace(absmax=quant.nf4.absmax(w), scale=None, offset=None)
        if isinstance(w, quant.NF4)
        else w
    )
