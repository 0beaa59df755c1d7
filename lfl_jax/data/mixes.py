"""Several sources drawn from at fixed rates, as in replay: "metamath:0.9,c4:0.1".

Rates are shares of the examples. Each source is drawn in the order that it has alone, so that runs
with and without replay see the same examples of the first source in the same order.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from lfl_jax.data.examples import Example, Source
from lfl_jax.errors import UserError

RATE_STEPS = 1000  # rates are rounded to thousandths


@dataclass(frozen=True)
class SourceName:
    """One source as config.data.source writes it: NAME, NAME:FOLDER, either with :WEIGHT."""

    name: str
    folder: str
    weight: float


def parse(text: str) -> tuple[SourceName, ...]:
    """Names with weights, 1 by default: "a", "tfds:DIR", "a:0.9,tfds:DIR:0.1".

    What follows a part's last colon is its weight if it reads as a number. The first of several may
    have weight 0: it is tested on and not trained on. Raises UserError for any other weight that is
    not positive, and for a part without a name.
    """
    parts = tuple(_parse_part(part.strip(), text) for part in text.split(","))
    trained = parts[1:] or parts
    if not all(part.weight for part in trained):
        raise _weights_error(text)
    return parts


def _parse_part(part: str, text: str) -> SourceName:
    head, _, tail = part.rpartition(":")
    weight = _number(tail) if head else None
    name, _, folder = (part if weight is None else head).partition(":")
    if not name or (weight is not None and not 0 <= weight < math.inf):
        raise _weights_error(text)
    return SourceName(name, folder, 1.0 if weight is None else weight)


def _weights_error(text: str) -> UserError:
    return UserError(
        f"config.data.source={text!r}: expected names with positive weights, such as"
        " metamath:0.9,c4:0.1 (the first of several may have 0: tested on, not trained on)"
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def rates(weights: Sequence[float]) -> tuple[int, ...]:
    """Draws of each source in one round: the weights, normalised and rounded to thousandths.

    Raises UserError for a source that would be drawn less than once in a thousand.
    """
    exact = np.asarray(weights, float) / sum(weights) * RATE_STEPS
    counts = np.floor(exact).astype(int)
    # Largest remainder method: the thousandths that rounding down lost go to those that lost most.
    lost = RATE_STEPS - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:lost]] += 1
    if not counts.all():
        raise UserError(
            f"config.data.source: weights {tuple(weights)}; the least is below a thousandth of"
            " their sum"
        )
    divisor = math.gcd(*counts.tolist())
    return tuple(int(n) // divisor for n in counts)


@dataclass(frozen=True)
class Rounds:
    """A map from draw k to (source, index among that source's draws), as grain's selection maps.

    Every round of sum(rates) draws has each source exactly at its rate, in one order that is
    shuffled with the seed. Nothing depends on earlier draws, so that a stream resumes anywhere.
    """

    rates: tuple[int, ...]
    order: Int[np.ndarray, " K"]  # source of each draw of a round
    earlier: Int[np.ndarray, " K"]  # draws of the same source before it in the round
    draws: int

    @classmethod
    def make(cls, rates: Sequence[int], seed: int, draws: int) -> "Rounds":
        """Rounds of sum(rates) draws."""
        order = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(rates)), rates))
        earlier = np.array([np.sum(order[:i] == source) for i, source in enumerate(order)])
        return cls(tuple(rates), order, earlier, draws)

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, k: int) -> tuple[int, int]:
        complete_rounds, position = divmod(k, len(self.order))
        source = int(self.order[position])
        return source, complete_rounds * self.rates[source] + int(self.earlier[position])


@dataclass(frozen=True)
class ConcatenatedExamples(Sequence[Example]):
    """The examples of several sources, one source after the other.

    Ids and clusters are prefixed by the source's name, as two sources may use the same ones.
    """

    names: tuple[str, ...]
    examples: tuple[Sequence[Example], ...]

    @classmethod
    def of(cls, sources: Sequence[Source]) -> "ConcatenatedExamples":
        """The examples of these sources."""
        names = tuple(source.name for source in sources)
        return cls(names, tuple(source.examples for source in sources))

    @functools.cached_property
    def starts(self) -> Int[np.ndarray, " S"]:
        """The first index of each source, and the end of the last one."""
        return np.cumsum([0, *map(len, self.examples)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, i: int) -> Example:
        i = range(len(self))[i]
        source = int(np.searchsorted(self.starts, i, side="right")) - 1
        example = self.examples[source][i - int(self.starts[source])]
        name = self.names[source]
        return replace(example, id=f"{name}/{example.id}", cluster=f"{name}/{example.cluster}")
