"""The change of the logits when an adapter is merged into its base and the result is rounded.

Merged weights are stored in bfloat16 or float16, so the merged model differs from base + adapter by
rounding, at least. `merge_error` measures the difference and what rounding alone would cause: a
larger one means that the merge is wrong.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lfl_jax.adapters.build import merge
from lfl_jax.core.types import AdapterTree, Key, Params
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig

FLOAT32_NOISE = 2.0**-21  # relative error of a float32 sum whose terms are added in another order
EXPLAINED = 3  # times the expected mean: a difference up to that is rounding


@dataclasses.dataclass(frozen=True)
class MergeError:
    """Absolute differences from the logits of the unmerged model in float32.

    largest, mean: of the merged and rounded model, over all tokens and the vocabulary. expected_*:
    what rounding alone is expected to cause.
    """

    largest: float
    mean: float
    expected_largest: float
    expected_mean: float

    @property
    def within(self) -> bool:
        """True where rounding explains the difference."""
        return self.mean <= EXPLAINED * self.expected_mean


def merge_error(
    params: Params,
    adapter: AdapterTree,
    merged: Params,
    tokens: Int[Array, "B T"],
    cfg: ModelConfig,
    key: Key,
) -> MergeError:
    """Compare `merged`, in its storage type, with params + adapter on these tokens.

    The expectation comes from the exact merge with random rounding: every weight is changed by a
    relative error that is uniform up to half a unit in the last place of the storage type.
    """
    # In float32, so that the arithmetic adds nothing to the errors of the weights.
    cfg = dataclasses.replace(cfg, compute_dtype="float32", remat="none")
    params = _as_float32(params)
    exact = _logits(params, adapter, tokens, cfg=cfg)
    rounded = _logits(_as_float32(merged), {}, tokens, cfg=cfg)

    # Adding the terms of a float32 sum in another order has an error as well, the only one where
    # the storage type is float32.
    dtype = jax.tree.leaves(merged)[0].dtype
    half_ulp = max(float(jnp.finfo(dtype).eps) / 2, FLOAT32_NOISE)
    exact_merge = merge(adapter, params) if adapter else params
    simulated = _logits(_round_randomly(exact_merge, key, half_ulp), {}, tokens, cfg=cfg)

    difference, expected = jnp.abs(rounded - exact), jnp.abs(simulated - exact)
    return MergeError(
        largest=float(difference.max()),
        mean=float(difference.mean()),
        expected_largest=float(expected.max()),
        expected_mean=float(expected.mean()),
    )


@partial(jax.jit, static_argnames="cfg")
def _logits(
    params: Params, adapter: AdapterTree, tokens: Int[Array, "B T"], *, cfg: ModelConfig
) -> Float[Array, "B T V"]:
    hidden, _ = llama.forward(params, adapter, tokens, cfg)
    return llama.logits(params, hidden)


def _as_float32(params: Params) -> Params:
    return jax.tree.map(lambda x: x.astype(jnp.float32), params)


def _round_randomly(params: Params, key: Key, half_ulp: float) -> Params:
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    rounded = []
    for x, leaf_key in zip(leaves, keys, strict=True):
        error = jax.random.uniform(leaf_key, x.shape, jnp.float32, -half_ulp, half_ulp)
        rounded.append(x * (1 + error))
    return jax.tree.unflatten(structure, rounded)
