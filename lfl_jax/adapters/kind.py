"""A kind of adapter: a frozen dataclass (`flax.struct`) of arrays, with the methods of `Kind`.

A kind changes what a linear weight outputs: y = x W becomes y + dy. dy has two parts, and a kind
has one of them or both. The low-rank part is (x A · scale) B, with A and B of this adapter;
`project` computes those of all adapters of a group of weights together. `change` is the rest.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from lfl_jax.adapters.placement import Placement
from lfl_jax.core import tree
from lfl_jax.core.pytree import Node, PyTree
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Weight

# {kind: {leaf: array}} of what all layers of an adapter share; None where no kind shares anything
Shared: TypeAlias = dict[str, dict[str, PyTree]] | None


class LowRank(NamedTuple):
    """The factors of dy = (x A · scale) B; of StackedFactors, over M adapters."""

    a: Float[Array, "*M I R"]
    scale: Float[Array, "*M R"]
    b: Float[Array, "*M R O"]


class Kind(Node):
    """An adapter at one weight.

    Leaves have a leading layer axis L; methods see one layer, whose weight w is (I, O), an array or
    quantised. The defaults suit a kind with a constant leaf `gain` (1,), a factor on its change.
    """

    # leaves that never train, whatever config.trainable says
    constants: ClassVar[tuple[str, ...]] = ("scale", "gain")
    # of the arrays that layers share, those that train, as KIND/LEAF; the others are constants
    shared_trained: ClassVar[tuple[str, ...]] = ()
    # leaves whose learning rate config.optim.lora_plus multiplies
    lora_plus: ClassVar[tuple[str, ...]] = ()
    # config.adapter.rank is needed
    ranked: ClassVar[bool] = True
    # the weights it can adapt, such as "q"; None is all
    modules: ClassVar[tuple[str, ...] | None] = None
    # config.adapter.init may say which of its two factors starts at zero
    either_factor_zero: ClassVar[bool] = False
    # `bind` needs the weight from before it was quantised
    reads_original: ClassVar[bool] = False
    # `change` is a function of the adapted output: its y includes the other adapters' changes
    on_output: ClassVar[bool] = False

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "Kind":
        """Specs beside a stacked weight (L, I, O); initialised and bound, they change nothing."""
        raise NotImplementedError

    @classmethod
    def shared_specs(
        cls, weights: Sequence[ArraySpec], placements: Sequence[Placement]
    ) -> dict[str, ArraySpec]:
        """Specs of arrays that all layers share, by leaf name; given every adapted weight."""
        return {}

    def weight_shape(self) -> tuple[int, ...] | None:
        """(I, O) of the adapted weight, or (L, I, O) of a stack; None if no leaf tells it."""
        return None

    def with_shared(self, shared: Shared) -> "Kind":
        """The layer with its part of the shared arrays; called before any method below."""
        return self

    def bind(self, w: Weight, original: Weight | None = None) -> "Kind":
        """The layer at the start of training, with what it reads from its weight.

        original: the weight from before it was quantised.
        """
        return self

    def rebind(self, w: Weight) -> "Kind":
        """The layer over another weight: constants are read from w again, what trained stays."""
        return self

    def deviation(self, w: Weight) -> Float[Array, ""] | None:
        """Relative root mean square difference of what `bind` read to what it would read from w.

        None for a kind that keeps nothing of its weight.
        """
        return None

    def validate(self, path: str) -> None:
        """UserError, which starts with the path, for a stacked layer that `bind` left unusable."""

    def precompute_for_inference(self, w: Weight) -> "Kind":
        """The layer with everything computed that is the same at every step of an evaluation."""
        return self

    def low_rank(self, w: Weight | None) -> LowRank | None:
        """The low-rank part of dy, if it has one; w is None where this part is all of dy."""
        return None

    def change(
        self, x: Float[Array, "*N I"], y: Float[Array, "*N O"], w: Weight
    ) -> Float[Array, "*N O"] | None:
        """The other part of dy, if there is one."""
        return None

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """dW in float32; UserError for a kind that has none."""
        raise NotImplementedError

    def scaled(self, factor: ArrayLike) -> "Kind":
        """The layer whose dW is factor · dW."""
        return self.replace(gain=self.gain * factor)

    def effective_size(self) -> Int[Array, ""]:
        """Trainable scalars of a stack: layers that are not adapted do not count."""
        stored = sum(x.size for name, x in tree.items(self) if name not in self.constants)
        return jnp.sum(self.gain != 0) * (stored // self.gain.size)


def only_low_rank(layer: Node) -> bool:
    """Whether the low-rank part is the whole change."""
    return type(layer).low_rank is not Kind.low_rank and type(layer).change is Kind.change


def _subclasses(kind: type[Kind]) -> Iterator[type[Kind]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _subclasses(subclass)


def __getattr__(name: str) -> tuple[str, ...]:
    """CONSTANTS: the constants of all kinds, for programs that have a leaf's name alone."""
    if name != "CONSTANTS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return tuple(sorted({leaf for kind in _subclasses(Kind) for leaf in kind.constants}))
