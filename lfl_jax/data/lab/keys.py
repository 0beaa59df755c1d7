"""Keys with random values of 16 hexadecimal digits: how many bits can be stored?

    e017 e203   is answered by   v03 v15 v00 ... (16 digits)

A key is a pair of entities, which nothing else of the lab joins. A digit is one of the first 16
values, a token each, uniform and independent of all others: a value has 64 bits, and only training
on it tells any of them. All splits are the same keys, since it is memory that is measured.
"""

import functools
import hashlib
from dataclasses import dataclass

from lfl_jax.data.examples import Drawn, Example
from lfl_jax.data.lab import vocabulary
from lfl_jax.data.lab.vocabulary import ENTITIES
from lfl_jax.data.splits import check
from lfl_jax.errors import UserError

DIGITS = 16
DIGIT_BITS = 4
MOST_KEYS = ENTITIES**2


@dataclass(frozen=True)
class Keys(Drawn):
    """The first keys of a world (`seed`)."""

    def draw(self, i: int) -> Example:
        """Key i and its value."""
        first, second = divmod(self._pair(i), ENTITIES)
        key = f"{vocabulary.entity(first)} {vocabulary.entity(second)}"
        # A hash, not a random generator: key i is the same whatever the number of keys.
        digits = _digest(f"{self.seed}/value/{i}")[:DIGITS]
        value = " ".join(vocabulary.value(int(digit, 16)) for digit in digits)
        return Example(key, value, id=key, cluster=key)

    def _pair(self, i: int) -> int:
        """The number of the pair of entities: a permutation of all pairs, so that none repeats."""
        drawn = _digest(f"{self.seed}/keys")
        # An odd factor is invertible modulo a power of two, which MOST_KEYS is.
        factor, offset = int(drawn[:4], 16) | 1, int(drawn[4:8], 16)
        return (factor * i + offset) % MOST_KEYS


# Every key reads what the permutation is made of.
@functools.lru_cache(maxsize=8)
def _digest(text: str) -> str:
    return hashlib.sha256(f"lab {text}".encode()).hexdigest()


def source(world: int, split: str, size: int) -> Keys:
    """`size` keys of a world; UserError for an unknown split, or more keys than there are."""
    check(split, "lab_keys")
    if size > MOST_KEYS:
        raise UserError(f"config.data.size={size}: lab_keys has at most {MOST_KEYS} keys")
    return Keys(world, split, size)
