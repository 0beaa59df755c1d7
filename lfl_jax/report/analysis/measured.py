"""The results of an analysis, as the table, the page and the files read them."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.analysis.subspaces import Correlation, UnitChange
from lfl_jax.analysis.token_forgetting import TokenForgetting
from lfl_jax.report.analysis.measures import Measure

Value: TypeAlias = float | int | None
# Similarities of the first i directions of one matrix and the first j of another, in the spaces of
# inputs and of outputs.
Common: TypeAlias = tuple[Float[np.ndarray, "D E"], Float[np.ndarray, "D E"]]


@dataclass(frozen=True, eq=False)
class Pair:
    """One weight's change of the last checkpoint, and that of another run, or W.

    inputs, outputs: similarities of the first i directions of one and the first j of the other,
    in the space of inputs and of outputs.
    """

    path: str
    layer: int
    shape: tuple[int, int]
    inputs: Float[np.ndarray, "D E"]
    outputs: Float[np.ndarray, "D E"]

    @property
    def module(self) -> str:
        """ "q" of "layers/attn/q"."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, eq=False)
class Weight:
    """One weight of one layer at one checkpoint.

    rank: that its factors allow, None for a dense change. values: by `measures.columns`; what does
    not exist is left out. s: the singular values of dW. random_s: of a Gaussian change with the
    same norm. one_step_s: of the signs of dW. rounding_s: of what rounding alone changes. base_s,
    tuned_s: of W and of W + dW.
    cosines: of the directions of W + dW, the most to any of W; random_cosines: the same of W and a
    change with dW's singular values in random directions. similarities: of the first i directions
    of dW with the first j of W. unit: how outputs changed in norm and direction. All of them None
    where they were not computed.
    """

    checkpoint: str
    amount: float | None
    path: str
    layer: int
    shape: tuple[int, int]
    rank: int | None
    values: Mapping[str, Value]
    s: Float[np.ndarray, " K"]
    random_s: Float[np.ndarray, " K"]
    one_step_s: Float[np.ndarray, " N"] | None = None
    rounding_s: Float[np.ndarray, " N"] | None = None
    base_s: Float[np.ndarray, " N"] | None = None
    tuned_s: Float[np.ndarray, " N"] | None = None
    cosines: Float[np.ndarray, " C"] | None = None
    random_cosines: Float[np.ndarray, " C"] | None = None
    similarities: Common | None = None
    unit: UnitChange | None = None

    @property
    def module(self) -> str:
        """ "q" of "layers/attn/q"."""
        return self.path.rpartition("/")[2]

    @property
    def name(self) -> str:
        """ "layers/3/attn/q"."""
        return self.path.replace("layers/", f"layers/{self.layer}/", 1)

    def with_base(self) -> Pair | None:
        """Its directions beside those of W; None where W was not decomposed."""
        if self.similarities is None:
            return None
        return Pair(self.path, self.layer, self.shape, *self.similarities)


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that was measured, and what has to be known to read it.

    base: what it is against. unchanged: {checkpoint: names of weights with a change of exactly 0}.
    others: {checkpoint: changed parameters without a spectrum}. pairs: with `compared`, another
    run. correlations: {checkpoint: of magnitude and direction change, or why there is none}.
    """

    title: str
    base: str
    weights: tuple[Weight, ...]
    labels: tuple[str, ...]
    unit: str = ""
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unchanged: Mapping[str, Sequence[str]] = field(default_factory=dict)
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)
    correlations: Mapping[str, Correlation | str] = field(default_factory=dict)
    compared: str = ""
    pairs: tuple[Pair, ...] = ()
    tokens: TokenForgetting | None = None

    @property
    def is_several(self) -> bool:
        """Whether there are several checkpoints."""
        return len(self.labels) > 1

    # Cached: every figure and table asks, of thousands of weights.
    @functools.cached_property
    def modules(self) -> tuple[str, ...]:
        """Of all checkpoints, in the order in which a layer computes."""
        return tuple(dict.fromkeys(weight.module for weight in self.weights))

    @functools.cached_property
    def last(self) -> tuple[Weight, ...]:
        """The weights of the last checkpoint."""
        return self.of(self.labels[-1])

    def of(self, label: str) -> tuple[Weight, ...]:
        """The weights of a checkpoint."""
        return tuple(weight for weight in self.weights if weight.checkpoint == label)

    def series(
        self, label: str, module: str, name: str
    ) -> tuple[Int[np.ndarray, " L"], Float[np.ndarray, " L"]]:
        """(layers, values) of a measure; NaN where it does not exist."""
        chosen = [weight for weight in self.of(label) if weight.module == module]
        layers = np.array([weight.layer for weight in chosen], int)
        # None becomes NaN, which no line is drawn through.
        return layers, np.array([weight.values.get(name) for weight in chosen], float)


def summary(weights: Sequence[Weight], measure: Measure, *, null: bool = False) -> Value:
    """A measure of several weights, or its null: a sum of counts, else a mean.

    None where no weight has it.
    """
    name = measure.null_name if null else measure.name
    values = [weight.values.get(name) for weight in weights]
    known = [x for x in values if x is not None]
    if not known:
        return None
    return sum(known) if measure.is_total else float(np.mean(known))
