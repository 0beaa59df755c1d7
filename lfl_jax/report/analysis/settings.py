"""What of a model's weight changes is measured, and how far."""

import re
from dataclasses import dataclass

from lfl_jax.analysis.weight_changes import PATHS, WeightChange
from lfl_jax.errors import UserError

# First directions that subspaces are compared by, where nobody says otherwise.
DIRECTIONS = 16
# Smaller sides up to which W is decomposed as well: its vectors cost seconds at this size, and
# minutes at 4096.
LARGE = 2048


@dataclass(frozen=True)
class Settings:
    """What is measured.

    modules: a regex of weights, as in `matches`; "" is all. directions: None is DIRECTIONS, or
    fewer where there are fewer. has_base: whether W can be read. decomposes_base: whether W is
    decomposed; None is of weights up to LARGE.
    """

    modules: str = ""
    directions: int | None = None
    has_base: bool = True
    decomposes_base: bool | None = None

    def chosen(self, n_layers: int) -> set[tuple[str, int]]:
        """(path, layer) of the weights; UserError where there are none."""
        weights = {(path, layer) for layer in range(n_layers) for path in PATHS}
        chosen = {weight for weight in weights if matches(self.modules or ".*", *weight)}
        if not chosen:
            names = ", ".join(path.removeprefix("layers/") for path in PATHS)
            raise UserError(f"--modules={self.modules} names no weight of these: {names}")
        return chosen

    def decomposes(self, shape: tuple[int, int]) -> bool:
        """Whether a W of this shape is decomposed."""
        if self.decomposes_base is None:
            return self.has_base and min(shape) <= LARGE
        return self.has_base and self.decomposes_base

    def rank(self, change: WeightChange) -> int:
        """How many directions are compared; UserError for more than the change has."""
        limit, what = min(change.shape), f"is {change.shape[0]} x {change.shape[1]}"
        factors = change.factors
        if factors is not None and factors[0].shape[1] < limit:
            limit = factors[0].shape[1]
            what = f"has a change of rank {limit}"
        if self.directions is None:
            return min(DIRECTIONS, limit)
        if not 1 <= self.directions <= limit:
            raise UserError(
                f"--directions={self.directions}: {change.name} {what}; expected 1 to {limit}"
            )
        return self.directions


def matches(pattern: str, path: str, layer: int) -> bool:
    """Whether a regex names a weight: by "q", "attn/q", "layers/attn/q" or "layers/3/attn/q"."""
    short = path.removeprefix("layers/")
    names = (short.rpartition("/")[2], short, path, f"layers/{layer}/{short}")
    # A pattern of the user's: it is no regex only where re says so.
    try:
        return any(re.fullmatch(pattern, name) for name in names)
    except re.error as error:
        raise UserError(f"--modules={pattern} is no regular expression: {error}") from None
