"""Batches routed by ids: every example or token is multiplied with the factors of its own adapter.

The plain plan multiplies every token with every adapter's factors and zeroes all products but one,
so that its work grows with the number of adapters. Here it does not.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import LowRank, only_low_rank
from lfl_jax.adapters.mix import AdapterLayer, StackedFactors, members
from lfl_jax.adapters.routing import is_ids
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Params, Routing, Weight
from lfl_jax.kernels.low_rank.grouped import grouped_low_rank, low_rank_by_example

# from so many on, products with each row's own factors are faster (results/README.md; on CPU only)
MEMBERS = 8


@dataclasses.dataclass(frozen=True)
class Routed:
    """y = x W, and the stacked factors of its adapters: A (M, I, R), scale (M, R), B (M, R, O).

    ids: (B,) or (B, T), the adapter that each example or token uses.
    """

    y: Float[Array, "B T O"]
    factors: LowRank
    ids: Routing

    @property
    def shrinks(self) -> tuple[()]:
        """None: A differs between rows."""
        return ()

    def output(
        self, adapter_input: Float[Array, "B T I"], hidden: tuple[()]
    ) -> Float[Array, "B T O"]:
        """x W plus the change of the adapter that each id names."""
        return self.y + low_rank(adapter_input, self.factors, self.ids)


def can_follow_ids(routing: Routing | None, rules: Rules | None) -> bool:
    """Whether a routing is ids that `low_rank` can follow.

    Ids of tokens need the rows sorted by adapter, which cannot be done across the devices of a
    mesh.
    """
    return is_ids(routing) and (routing.ndim == 1 or rules is None or rules.mesh.size == 1)


def stacked_factors(layer: AdapterLayer | None, w: Weight, shared: Params | None) -> LowRank | None:
    """A (M, I, R), scale (M, R) and B (M, R, O) of a layer's adapters.

    None where `low_rank` is not all they do, their shapes differ, or they are too few for it to be
    faster.
    """
    # stacked once, for evaluation: stacking here copies all factors at every call
    if isinstance(layer, StackedFactors):
        return layer.factors
    group = tuple(member.with_shared(shared) for member in members(layer))
    if len(group) < MEMBERS or not all(map(only_low_rank, group)):
        return None
    parts = tuple(member.low_rank(w) for member in group)
    # one gather picks a row's factors only where all have one rank
    if len({(part.a.shape, part.b.shape) for part in parts}) > 1:
        return None
    return LowRank(*(jnp.stack(leaves) for leaves in zip(*parts, strict=True)))


def low_rank(x: Float[Array, "B T I"], factors: LowRank, ids: Routing) -> Float[Array, "B T O"]:
    """dy by the adapter that each id names, 0 for an id that names none."""
    a, scale, b = factors
    # inside a compiled program ids cannot be refused: those too large are the base, as -1 is
    ids = jnp.where(ids < len(scale), ids, -1)
    if ids.ndim == 1:
        return low_rank_by_example(x, a, b, ids, scale)
    dy = grouped_low_rank(x.reshape(-1, x.shape[-1]), a, b, ids.reshape(-1), scale)
    return dy.reshape(*x.shape[:2], -1)
