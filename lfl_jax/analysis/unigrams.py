"""How far the tokens of one text are from those of another: KL of their frequencies.

    apart = unigrams.divergence(target_ids, source_ids)

p is a token's frequency in the target's text. q is that in the source's, with SMOOTHING added to
every count, since a token that only the target has would be infinitely far: q = (n + SMOOTHING) /
(N + SMOOTHING V), over the V tokens that either text has. The KL is sum p log(p / q), in nats a
token. Two samples of one language are not at 0: `null` is what texts of these lengths show whose
tokens are all drawn from q.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

SMOOTHING = 1.0
# Of the null.
DRAWS = 20


@dataclass(frozen=True)
class Divergence:
    """kl, null: in nats a token. Numbers of tokens of both texts, and of different ones."""

    kl: float
    null: float
    target_tokens: int
    source_tokens: int
    vocabulary: int
    smoothing: float = SMOOTHING


def divergence(target: Sequence[int], source: Sequence[int]) -> Divergence:
    """Of token ids; ValueError for a text without any."""
    if not (len(target) and len(source)):
        raise ValueError("a text without tokens has no frequencies")
    of_target, of_source = counts(target, source)
    expected = smoothed(of_source)
    rng, lengths = np.random.default_rng(0), (len(target), len(source))
    # Both texts are samples: of the source, too, another one would have other counts.
    first, second = (rng.multinomial(n, expected, DRAWS) for n in lengths)
    null = np.mean([kl(*pair) for pair in zip(first, map(smoothed, second), strict=True)])
    return Divergence(kl(of_target, expected), float(null), *lengths, len(expected))


def counts(
    target: Sequence[int], source: Sequence[int]
) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, " V"]]:
    """How often each text has each of the tokens that either has."""
    _, index = np.unique([*target, *source], return_inverse=True)
    size = int(index.max()) + 1
    first, second = np.split(index, [len(target)])
    return np.bincount(first, minlength=size), np.bincount(second, minlength=size)


def smoothed(number: Int[np.ndarray, " V"]) -> Float[np.ndarray, " V"]:
    """Frequencies with SMOOTHING added to every count (Lidstone's estimate)."""
    return (number + SMOOTHING) / (number.sum() + SMOOTHING * len(number))


def kl(number: Int[np.ndarray, " V"], q: Float[np.ndarray, " V"]) -> float:
    """Of the frequencies of counts from q, in nats; a token that does not occur adds nothing."""
    p = number / number.sum()
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / q[there])))
