"""Rules that merge several adapters' arrays into one: a weighted sum, TIES' election, trimming.

Also DARE's drop, which goes before a rule. `combine` applies them to dW, `peft_combine` to the
factors A and B.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lfl_jax.core.types import Key, PyTree
from lfl_jax.errors import UserError

SIGNS = ("total", "frequency")

# (M, I, O) of M adapters, and factors that broadcast to it -> (I, O)
Rule: TypeAlias = Callable[[Array, Array], Array]


def weighted_sum(x: Float[Array, "M I O"], weights: Float[Array, "M #I #O"]) -> Float[Array, "I O"]:
    """The plain rule: sum_m w_m x_m."""
    return jnp.sum(x * weights, axis=0)


def election(sign: str) -> Rule:
    """TIES after trimming: elect signs without the weights, then average what agrees."""
    if sign not in SIGNS:
        raise UserError(f"ties: sign={sign!r}; expected one of {', '.join(SIGNS)}")

    def rule(x: Float[Array, "M I O"], weights: Float[Array, "M #I #O"]) -> Float[Array, "I O"]:
        votes = jnp.sum(x if sign == "total" else jnp.sign(x), axis=0)
        agrees = jnp.sign(x) == jnp.where(votes >= 0, 1, -1)
        total = jnp.sum(jnp.where(agrees, x * weights, 0), axis=0)
        return total / jnp.maximum(jnp.sum(agrees, axis=0), 1)

    return rule


def trimmed(rule: Rule, density: float) -> Rule:
    """The rule on adapters without all but their int(density · size) largest entries."""
    if density == 1:
        return rule

    def trim(x: Float[Array, "I O"]) -> Float[Array, "I O"]:
        # the first of equal entries survive, as in torch.topk
        largest = jax.lax.top_k(jnp.abs(x).ravel(), int(density * x.size))[1]
        survives = jnp.zeros(x.size, bool).at[largest].set(True)
        return jnp.where(survives.reshape(x.shape), x, 0)

    def trim_first(x: Float[Array, "M I O"], weights: Array) -> Float[Array, "I O"]:
        return rule(jnp.stack([trim(change) for change in x]), weights)

    return trim_first


def check_density(density: float) -> float:
    """The density itself; UserError for one that keeps nothing, or more than there is."""
    if not 0 < density <= 1:
        raise UserError(
            f"density {density}; expected the fraction of entries to keep, above 0 and at most 1"
        )
    return density


@dataclass(frozen=True)
class Drop:
    """DARE's first step: entries survive with probability `density`, and are divided by it.

    name: of the function that errors start with. Exactly one of key and masks is there.
    """

    name: str
    density: float
    key: Key | None
    masks: Sequence[PyTree] | None

    def __call__(
        self, x: Float[Array, "L I O"], adapter: int, path: str, factor: int | None = None
    ) -> Float[Array, "L I O"]:
        """x of one adapter at one weight; factor: 0 for A and 1 for B, None for dW."""
        if self.masks is None:
            survives = self._draw(x.shape, adapter, path, factor)
        else:
            survives = self._look_up(x.shape, adapter, path, factor)
        return jnp.where(survives, x, 0) / self.density

    def _draw(
        self, shape: tuple[int, ...], adapter: int, path: str, factor: int | None
    ) -> Bool[Array, "L I O"]:
        # folded from the path, so that a weight's draw does not depend on which others are adapted
        path_hash = zlib.crc32(f"{path}/{factor}".encode())
        key = jax.random.fold_in(jax.random.fold_in(self.key, adapter), path_hash)
        return jax.random.bernoulli(key, self.density, shape)

    def _look_up(
        self, shape: tuple[int, ...], adapter: int, path: str, factor: int | None
    ) -> Bool[Array, "L I O"]:
        mask = self.masks[adapter]
        # masks are trees like an adapter's, but may be of plain dicts and numpy arrays
        for step in path.split("/"):
            mask = mask.get(step) if isinstance(mask, dict) else None
        if factor is not None and mask is not None:
            mask = mask[factor]
        if mask is None or mask.shape != shape:
            raise UserError(
                f"{self.name}: adapter {adapter} needs a mask of shape {shape} at {path}"
            )
        return jnp.asarray(mask).astype(bool)


def make_drop(
    name: str,
    n_adapters: int,
    density: float,
    key: Key | None,
    masks: Sequence[PyTree] | None,
) -> Drop:
    """DARE's first step; UserError for arguments that do not say what is dropped."""
    check_density(density)
    if (key is None) == (masks is None):
        raise UserError(f"{name}: give either key or masks, and not both")
    if masks is not None and len(masks) != n_adapters:
        raise UserError(
            f"{name}: {len(masks)} masks; expected one tree for each of {n_adapters} adapters"
        )
    return Drop(name, density, key, masks)
