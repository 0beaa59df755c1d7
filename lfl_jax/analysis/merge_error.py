"""What merging an adapter into its base, and rounding the result to a storage type, does to the
logits."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lfl_jax.adapters.build import merge
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig

FLOAT32_NOISE = 2.0**-21  # relative, of a sum taken in another order


@dataclasses.dataclass(frozen=True)
class MergeError:
    """Differences of logits from the unmerged model in float32: of the merged and rounded model,
    and of what rounding alone is expected to give. Largest and mean absolute value, over all tokens
    and the vocabulary.
    """

    largest: float
    mean: float
    expected_largest: float
    expected_mean: float

    @property
    def within(self) -> bool:
        """Whether rounding explains the difference (up to a factor of 3 in the mean)."""
        return self.mean <= 3 * self.expected_mean


def merge_error(
    params: dict,
    adapter: dict,
    merged: dict,
    tokens: Int[Array, "B T"],
    cfg: ModelConfig,
    key: jax.Array,
) -> MergeError:
    """Compare `merged` (in its storage type) with params + adapter on these tokens.

    The expectation comes from the exact merge with every weight moved by a uniform random relative
    error of at most half a unit in the last place of the storage type: rounding, but with errors of
    its own.
    """
    cfg = dataclasses.replace(cfg, compute_dtype="float32", remat="none")
    exact = _logits(_as_float32(params), adapter, tokens, cfg=cfg)
    dtype = jax.tree.leaves(merged)[0].dtype
    half_ulp = max(float(jnp.finfo(dtype).eps) / 2, FLOAT32_NOISE)
    rounded = _logits(_as_float32(merged), {}, tokens, cfg=cfg)
    whole = merge(adapter, _as_float32(params)) if adapter else params
    shaken = _logits(_shake(whole, key, half_ulp), {}, tokens, cfg=cfg)
    differences = [jnp.abs(x - exact) for x in (rounded, shaken)]
    return MergeError(*(float(f(x)) for x in differences for f in (jnp.max, jnp.mean)))


@partial(jax.jit, static_argnames="cfg")
def _logits(
    params: dict, adapter: dict, tokens: Int[Array, "B T"], *, cfg: ModelConfig
) -> Float[Array, "B T V"]:
    return llama.logits(params, llama.forward(params, adapter, tokens, cfg)[0])


def _as_float32(params: dict) -> dict:
    return jax.tree.map(lambda x: x.astype(jnp.float32), params)


def _shake(params: dict, key: jax.Array, half_ulp: float) -> Any:
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [
        x * (1 + jax.random.uniform(k, x.shape, jnp.float32, -half_ulp, half_ulp))
        for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)
