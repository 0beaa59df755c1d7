"""x W and all low-rank parts beside it by one kernel, where one was measured to be faster."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import LowRank
from lfl_jax.adapters.routing import adapter_weight
from lfl_jax.adapters.site import Site
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Routing, Weight
from lfl_jax.kernels.low_rank import low_rank_projection
from lfl_jax.kernels.low_rank.reference import XLA, Implementations
from lfl_jax.kernels.low_rank.sharded import choose_on


@dataclasses.dataclass(frozen=True)
class Fused:
    """Low-rank adapters of one weight, and the kernels of the forward and the backward pass."""

    w: Weight
    parts: tuple[LowRank, ...]
    routing: Routing | None
    implementations: Implementations

    @property
    def shrinks(self) -> tuple[()]:
        """None: the kernel computes x A itself."""
        return ()

    def output(self, x: Float[Array, "B T I"], hidden: tuple[()]) -> Float[Array, "B T O"]:
        """y = x W + ((x A) * routing) B, with A and B of all adapters concatenated."""
        # A of all adapters is one A of all their ranks, and so is B: the kernel sees one adapter.
        a = jnp.concatenate([part.a for part in self.parts], axis=-1)
        b = jnp.concatenate([part.b for part in self.parts], axis=-2)
        # the kernel knows rows (N, I), not examples and tokens
        rows = x.reshape(-1, x.shape[-1])
        row_routing = self._rank_routing(x).reshape(len(rows), -1)
        with jax.named_scope("fused_adapters"):
            y = low_rank_projection(
                rows, self.w, a, b, row_routing, implementation=self.implementations
            )
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _rank_routing(self, x: Float[Array, "B T I"]) -> Float[Array, "B T R"]:
        """scale · routing weight of every token and rank.

        In this form one kernel serves a single adapter, a stack, a mixture and a routed batch.
        """
        columns = [
            part.scale.astype(x.dtype) * adapter_weight(self.routing, m, x)
            for m, part in enumerate(self.parts)
        ]
        lead = x.shape[:-1]
        return jnp.concatenate([jnp.broadcast_to(c, (*lead, c.shape[-1])) for c in columns], -1)


def faster_kernels(
    x: Float[Array, "B T I"], site: Site, parts: tuple[LowRank, ...], rules: Rules | None
) -> Implementations | None:
    """The selection table's kernels for this site, or None where XLA is as fast both ways."""
    # The table is keyed by the shape of the product, which is static: the choice costs no device
    # time.
    rows, rank = x.size // x.shape[-1], sum(part.a.shape[-1] for part in parts)
    implementations = choose_on(rules, site.axes, site.w, rows, rank)
    return None if implementations == (XLA(), XLA()) else implementations
