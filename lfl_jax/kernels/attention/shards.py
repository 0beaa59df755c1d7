"""A kernel the partitioner cannot look into, on every shard of a mesh: rows and heads do not meet
in attention."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from lfl_jax.core.sharding import Rules


def per_shard(
    kernel: Callable,
    q: Float[Array, "B T H P"],
    k: Float[Array, "B T K P"],
    v: Float[Array, "B T K P"],
    segment_ids: Int[Array, "B T"],
    rules: Rules | None,
) -> Float[Array, "B T H P"]:
    """kernel(q, k, v, segment_ids) with rows over data and fsdp, and heads over tensor where the
    key heads divide."""
    if rules is None or rules.mesh.size == 1:
        return kernel(q, k, v, segment_ids)
    # The layout of the key heads serves the query heads too: each takes a whole number of them
    # along.
    heads = rules.partition(("batch", "time", "kv_heads", "activation"), k.shape)
    specs: Any = (heads, heads, heads, PartitionSpec(heads[0], None))
    sharded = jax.shard_map(
        kernel, mesh=rules.mesh, in_specs=specs, out_specs=heads, check_vma=False
    )
    return sharded(q, k, v, segment_ids)
