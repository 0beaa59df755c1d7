"""Splash attention, jax's Pallas kernel for TPUs: empty causal blocks are skipped."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

LANES = 128  # a block is a multiple of this many tokens
# tokens; larger ones leave too little memory for the backward pass of heads of 128
BLOCKS = (512, 256, 128)


def splash(
    q: Float[Array, "B T H P"],
    k: Float[Array, "B T K P"],
    v: Float[Array, "B T K P"],
    segment_ids: Int[Array, "B T"],
    *,
    interpret: bool = False,
) -> Float[Array, "B T H P"]:
    """Causal attention within segments.

    Rows are filled up to a multiple of 128 tokens by a segment of their own. What the backward pass
    needs is named "attention", as in `blocked`. interpret: on any machine, slowly.
    """
    _, t, h, p = q.shape
    fill = -t % LANES
    padding = ((0, 0), (0, fill), (0, 0), (0, 0))
    q, k, v = (jnp.pad(x, padding).transpose(0, 2, 1, 3) for x in (q, k, v))
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, fill)), constant_values=-1)
    out = jax.vmap(_kernel(h, t + fill, interpret))(q * (p**-0.5), k, v, _pair(segment_ids))
    return out.transpose(0, 2, 1, 3)[:, :t].astype(q.dtype)


def _pair(segment_ids: Int[Array, "B T"]) -> "SegmentIds":
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    return SegmentIds(segment_ids, segment_ids)


def _kernel(heads: int, tokens: int, interpret: bool) -> Callable:
    """The kernel for one row, (H, T, P) and (K, T, P)."""
    # Pallas is slow to import: only a program that uses the kernel pays for it.
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    block = next(size for size in BLOCKS if tokens % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    return library.splash_attention_kernel.make_splash_mha(
        library.MultiHeadMask([library.CausalMask((tokens, tokens))] * heads),
        block_sizes=library.BlockSizes(**{f"block_{name}": block for name in names}),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )
