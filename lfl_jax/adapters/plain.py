"""y = x W + dy by plain products, for adapters of any kinds."""

import dataclasses

from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind, LowRank, only_low_rank
from lfl_jax.adapters.routing import adapter_weight
from lfl_jax.core.types import Routing, Weight
from lfl_jax.kernels.low_rank.reference import expand


@dataclasses.dataclass(frozen=True)
class Plain:
    """y = x W, the adapters of W, and their low-rank parts, None for a kind that has none."""

    y: Float[Array, "B T O"]
    w: Weight
    members: tuple[Kind, ...]
    parts: tuple[LowRank | None, ...]
    routing: Routing | None

    @property
    def shrinks(self) -> tuple[Float[Array, "I _"], ...]:
        """The A of every low-rank part."""
        return tuple(part.a for part in self.parts if part is not None)

    def output(
        self, adapter_input: Float[Array, "B T I"], hidden: tuple[Float[Array, "B T _"], ...]
    ) -> Float[Array, "B T O"]:
        """x W, then the low-rank parts together, then what each kind computes by itself."""
        y = self.y
        if not all(map(only_low_rank, self.members)):
            # The backward pass of a kind's `change` reads y. Under remat it is saved, because
            # x W again would cost as much as the forward pass.
            y = checkpoint_name(y, "base")
        return self._with_changes(adapter_input, y, self._with_low_rank(y, hidden))

    def _with_low_rank(
        self, y: Float[Array, "B T O"], hidden: tuple[Float[Array, "B T _"], ...]
    ) -> Float[Array, "B T O"]:
        """y + sum_m g_m (x A_m · scale_m) B_m as one product over the ranks of all adapters.

        The routing weights g multiply the ranks, which are fewer than the outputs.
        """
        # m is the column of the routing: counted over all members, also those without this part
        present = [(m, part) for m, part in enumerate(self.parts) if part is not None]
        if not present:
            return y
        inner = tuple(
            h * part.scale.astype(y.dtype) * adapter_weight(self.routing, m, y)
            for (m, part), h in zip(present, hidden, strict=True)
        )
        return y + expand(inner, tuple(part.b.astype(y.dtype) for _, part in present))

    def _with_changes(
        self,
        adapter_input: Float[Array, "B T I"],
        y: Float[Array, "B T O"],
        total: Float[Array, "B T O"],
    ) -> Float[Array, "B T O"]:
        """total + every kind's own change: those of the weight see y = x W, and add.

        Those of the output (bottlenecks) come after, and see the sum.
        """
        for on_output in (False, True):
            for m, member in enumerate(self.members):
                if member.on_output is not on_output:
                    continue
                change = member.change(adapter_input, total if on_output else y, self.w)
                if change is not None:
                    total = total + change * adapter_weight(self.routing, m, y)
        return total
