"""An attention kernel on every shard of a mesh: the partitioner cannot look into one.

Rows and heads are independent in attention, so their shards are, too.
"""

from collections.abc import Callable

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
    """kernel(q, k, v, segment_ids) on every shard of the rules' mesh.

    Rows are split over data and fsdp, and heads over tensor where the key heads divide.
    """
    if rules is None or rules.mesh.size == 1:
        return kernel(q, k, v, segment_ids)
    # Query heads are split as the key heads are: each key head has a whole number of them.
    heads = rules.partition(("batch", "time", "kv_heads", "activation"), k.shape)
    specs = (heads, heads, heads, PartitionSpec(heads[0], None))
    sharded = jax.shard_map(
        kernel, mesh=rules.mesh, in_specs=specs, out_specs=heads, check_vma=False
    )
    return sharded(q, k, v, segment_ids)
