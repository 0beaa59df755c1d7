"""What a kind of adapter is: a frozen dataclass (`flax.struct`) of arrays, and these methods.

A kind changes what a linear weight puts out: y = x W becomes y + dy, in two parts that may each be
missing. The low-rank part is (x A · scale) B; `project` computes those of all adapters of a group
of weights together. `change` is the rest.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax.adapters.placement import Placement
from lfl_jax.core import tree
from lfl_jax.core.pytree import Node
from lfl_jax.core.spec import ArraySpec


class LowRank(NamedTuple):
    """A (I, R), scale (R,) and B (R, O) of dy = (x A · scale) B."""

    a: Any
    scale: Any
    b: Any


class Kind(Node):
    """Leaves of an adapter have a leading layer axis; methods see one layer, w being its weight (I,
    O), an array or quantised. The defaults are those of a kind with a constant leaf `gain` (1,),
    the factor on its change."""

    # leaves that never train, whatever the config says
    constants: ClassVar[tuple[str, ...]] = ("scale", "gain")
    ranked: ClassVar[bool] = True  # needs config.adapter.rank
    modules: ClassVar[tuple[str, ...] | None] = None  # those it can stand at; None = all
    # `bind` needs the weight as it was before it was quantised
    reads_original: ClassVar[bool] = False
    on_output: ClassVar[bool] = False  # `change` sees as y the sum that the other adapters made

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> Any:
        """Specs beside a stacked weight (L, I, O); initialised, and after `bind`, they change
        nothing."""
        raise NotImplementedError

    @classmethod
    def shared_specs(
        cls, weights: Sequence[ArraySpec], placements: Sequence[Placement]
    ) -> dict[str, ArraySpec]:
        """Specs of arrays that all layers share, by leaf name; given every adapted weight."""
        return {}

    def with_shared(self, shared: Any) -> Any:
        """The layer with what it needs of the adapter's shared arrays, before any of the following
        is called."""
        return self

    def bind(self, w: Any, original: Any = None) -> Any:
        """The layer at the start of training, with what is read off its weight; original: before it
        was quantised."""
        return self

    def rebind(self, w: Any) -> Any:
        """The layer over another weight: what `bind` reads off it and never trains is read again,
        the rest stays."""
        return self

    def deviation(self, w: Any) -> Float[Array, ""] | None:
        """How far what the layer read off its weight is from what it would read off w (relative,
        root mean square); None for a kind that keeps nothing of its weight."""
        return None

    def validate(self, path: str) -> None:
        """UserError, which starts with the path, for a stacked layer that `bind` left unusable."""

    def precompute_for_inference(self, w: Any) -> Any:
        """The layer with everything computed that stays the same while it does not train."""
        return self

    def low_rank(self, w: Any) -> LowRank | None:
        """The low-rank part of dy, if it has one."""
        return None

    def change(
        self, x: Float[Array, "*N I"], y: Float[Array, "*N O"], w: Any
    ) -> Float[Array, "*N O"] | None:
        """The rest of dy, if there is one."""
        return None

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """dW in float32; UserError for a kind that has none."""
        raise NotImplementedError

    def scaled(self, factor: Any) -> Any:
        """The layer whose dW is factor · dW."""
        return self.replace(gain=self.gain * factor)

    def effective_size(self) -> Any:
        """Trainable scalars of the stacked layers that are adapted, without padding."""
        stored = sum(x.size for name, x in tree.items(self) if name not in self.constants)
        return jnp.sum(self.gain != 0) * (stored // self.gain.size)


def only_low_rank(member: Any) -> bool:
    """Whether the low-rank part is the whole change."""
    return type(member).low_rank is not Kind.low_rank and type(member).change is Kind.change


def __getattr__(name: str) -> Any:
    """CONSTANTS: the names of all kinds' constants, for programs that ask for names; a kind says
    its own."""
    if name != "CONSTANTS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    kinds = [Kind]
    for kind in kinds:  # grows as it goes
        kinds.extend(kind.__subclasses__())
    return tuple(sorted({constant for kind in kinds for constant in kind.constants}))
