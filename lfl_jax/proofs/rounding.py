"""How far rounding carries two programs for one formula apart, measured and not guessed.

A bound near float32's rounding is never a number that fitted one CPU. Two programs for one formula
round differently on each machine (width of its vectors, fused multiply-add, number of threads), and
how far that goes is a property of the computation. So every input is moved by about its last bit,
and how far the result moves is what rounding explains.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.typing import ArrayLike

from lfl_jax.core import tree
from lfl_jax.core.types import PyTree

# Sums round at every term, where moving their inputs counts each term once. Measured with SSE4.2,
# AVX2 and AVX-512: never above 1.4; factors that are off by a relative 1e-5 already fail.
ROUNDINGS = 8


@dataclasses.dataclass(frozen=True)
class Distance:
    """The leaf whose error is most of what rounding explains: `error` is at most `times` of it."""

    path: str
    error: float
    rounding: float

    @property
    def times(self) -> float:
        """The error in units of what rounding explains; 0 where nothing differs."""
        if self.error == 0:
            return 0.0
        return self.error / self.rounding if self.rounding else float("inf")

    @property
    def is_rounding(self) -> bool:
        """Whether rounding explains the error; False for one that is no number."""
        return self.times <= ROUNDINGS

    def __str__(self) -> str:
        apart = f"{self.path}: {self.error:.3g} apart"
        return f"{apart}; rounding explains {ROUNDINGS} x {self.rounding:.3g}"


def distance(
    got: PyTree, want: PyTree, function: Callable[..., PyTree], *args: PyTree, draws: int = 4
) -> Distance:
    """How far two results of one formula are apart, of the leaf where that is most.

    function(*args) computes `want` in float32; its inputs are moved by one unit in the last place,
    at random, `draws` times. Compared leaf by leaf, by their Euclidean norms.
    """
    others = [function(*last_bits_moved(args, draw)) for draw in range(draws)]
    centre = function(*args)
    trees = (got, want, centre, *others)
    leaves = zip(tree.paths(want), *map(jax.tree.leaves, trees), strict=True)
    distances = [of_leaf(path, *values) for path, *values in leaves]
    return max(distances, key=lambda d: by_size(d.times), default=Distance("", 0.0, 0.0))


def by_size(x: float) -> tuple[bool, float]:
    """A key that sorts numbers by size; NaN is the largest."""
    return x != x, x


def of_leaf(path: str, *leaves: ArrayLike) -> Distance:
    """Of one leaf: got, want, the latter computed again, and results of moved inputs."""
    got, want, centre, *others = (np.asarray(leaf, np.float64) for leaf in leaves)
    rounding = max(np.linalg.norm(other - centre) for other in others)
    return Distance(path, float(np.linalg.norm(got - want)), float(rounding))


def last_bits_moved(values: PyTree, seed: int) -> PyTree:
    """The same arrays, each float32 element one unit in the last place up or down, or as it was."""
    rng = np.random.default_rng(seed)

    def move(x: object) -> object:
        if not hasattr(x, "dtype") or x.dtype != np.float32:
            return x
        units = rng.integers(-1, 2, np.shape(x))
        return np.asarray(x) * (1 + np.finfo(np.float32).eps * units).astype(np.float32)

    return jax.tree.map(move, values)
