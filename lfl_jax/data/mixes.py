"""Several sources drawn from at fixed rates, as in replay: "metamath:0.9,c4:0.1"."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lfl_jax.data.examples import Example
from lfl_jax.errors import UserError

STEPS = 1000  # rates are held in thousandths


@dataclass(frozen=True)
class Named:
    """One source as config.data.source writes it: name, name:FOLDER, and a weight where it is one
    of several."""

    name: str
    folder: str
    weight: float


def parse(text: str) -> tuple[Named, ...]:
    """Names with weights, 1 where none is given: "a", "tfds:DIR", "a:0.9,tfds:DIR:0.1".

    What follows a part's last colon is its weight if it reads as a number. UserError for a weight
    that is not positive, and for a part without a name.
    """
    return tuple(_named(part.strip(), text) for part in text.split(","))


def _named(part: str, text: str) -> Named:
    head, _, tail = part.rpartition(":")
    weight = _number(tail) if head else None
    name, _, folder = (part if weight is None else head).partition(":")
    if not name or (weight is not None and not 0 < weight < math.inf):
        raise UserError(
            f"config.data.source={text!r}: expected names with positive weights, such as"
            " metamath:0.9,c4:0.1"
        )
    return Named(name, folder, 1.0 if weight is None else weight)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def rates(weights: Sequence[float]) -> tuple[int, ...]:
    """Draws of each source in one round of sum(rates) draws: the weights, normalised, to a
    thousandth.

    Raises UserError for a source that would be drawn less than once in a thousand.
    """
    exact = np.asarray(weights, float) / sum(weights) * STEPS
    found = np.floor(exact).astype(int)
    # the largest remainders
    found[np.argsort(found - exact, kind="stable")[: STEPS - found.sum()]] += 1
    if not found.all():
        raise UserError(
            f"config.data.source: weights {tuple(weights)}; the least is below a thousandth of"
            " their sum"
        )
    return tuple(int(n) // math.gcd(*found.tolist()) for n in found)


@dataclass(frozen=True)
class Rounds:
    """Which source draw k comes from, and its how-manieth draw that is: exact in every round, in
    random access.

    Each round holds its sources in one order, shuffled with the seed.
    """

    rates: tuple[int, ...]
    order: np.ndarray  # source of each draw of a round
    before: np.ndarray  # draws of the same source earlier in the round

    @classmethod
    def make(cls, rates: Sequence[int], seed: int) -> "Rounds":
        """Rounds of sum(rates) draws."""
        order = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(rates)), rates))
        before = np.array([np.sum(order[:i] == part) for i, part in enumerate(order)])
        return cls(tuple(rates), order, before)

    def place(self, k: int) -> tuple[int, int]:
        """(source, number among that source's draws) of draw k."""
        done, here = divmod(k, len(self.order))
        part = int(self.order[here])
        return part, done * self.rates[part] + int(self.before[here])


@dataclass(frozen=True)
class Joined(Sequence[Example]):
    """Examples of several sources behind each other; ids are prefixed by the source's name."""

    names: tuple[str, ...]
    examples: tuple[Sequence[Example], ...]

    @property
    def starts(self) -> np.ndarray:
        """Where each source begins, and where the last one ends."""
        return np.cumsum([0, *map(len, self.examples)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, i: int) -> Example:
        i = range(len(self))[i]
        part = int(np.searchsorted(self.starts, i, side="right")) - 1
        found = self.examples[part][i - int(self.starts[part])]
        name = self.names[part]
        return replace(found, id=f"{name}/{found.id}", cluster=f"{name}/{found.cluster}")
