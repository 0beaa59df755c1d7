"""What an adapter is applied to, and what all adapters of a forward pass share."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax.adapters.mix import AdapterLayer
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Key, Params, Routing, Weight


@dataclasses.dataclass(frozen=True)
class Site:
    """A weight W (I, O) and the adapter beside it, None where it has none.

    axes: the logical axes of W, such as ("embed", "heads"); needed on a mesh of several devices.
    """

    w: Weight
    adapter: AdapterLayer | None = None
    axes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class AdapterContext:
    """What every adapter of a forward pass is given beside its weight and its input.

    routing: see `adapters.routing`; None is weight 1 for every adapter. key: turns on dropout of
    the adapters' input at the rate `dropout`. shared: the arrays that all layers of an adapter
    share, such as VeRA's A and B. rules: the mesh that all arrays lie on.
    """

    routing: Routing | None = None
    key: Key | None = None
    dropout: float = 0.0
    shared: Params | None = None
    rules: Rules | None = None

    @property
    def has_dropout(self) -> bool:
        """Whether the adapters see another input than the weight does."""
        return self.key is not None and self.dropout > 0.0

    def adapter_input(self, x: Float[Array, "B T I"]) -> Float[Array, "B T I"]:
        """x after inverted dropout: x / (1 - rate) with probability 1 - rate, else 0."""
        if not self.has_dropout:
            return x
        # inverted: the mean of the adapter's input stays, so that evaluation needs no factor
        keep = jax.random.bernoulli(self.key, 1.0 - self.dropout, x.shape)
        return jnp.where(keep, x / (1.0 - self.dropout), jnp.zeros((), x.dtype))


NO_CONTEXT = AdapterContext()  # one device, no dropout, weight 1 for every adapter
