"""cuDNN's flash attention, as jax has it, for NVIDIA GPUs: causal, with the segments as a bias."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LARGEST_HEAD = 128  # what GPUs before Hopper can do as well


def cudnn(
    q: Float[Array, "B T H P"],
    k: Float[Array, "B T K P"],
    v: Float[Array, "B T K P"],
    segment_ids: Int[Array, "B T"],
    *,
    implementation: str = "cudnn",
) -> Float[Array, "B T H P"]:
    """Causal attention within segments.

    Blocks above the diagonal are skipped. Other segments get a bias of about -1e38, which is a
    weight of exactly 0, since every token sees at least itself.

    implementation: "xla" is the same call without the library, for tests.
    """
    same = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q, k, v, mask=same, is_causal=True, implementation=implementation
    )


def limitation(q: Float[Array, "B T H P"], k: Float[Array, "B S K P"]) -> str | None:
    """Why cuDNN cannot compute this attention, or None."""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 and float16, not {q.dtype}"
    if q.shape[-1] % 8 or q.shape[-1] > LARGEST_HEAD:
        return f"its heads are multiples of 8 up to {LARGEST_HEAD}, not {q.shape[-1]}"
    if q.shape[1] % 2:
        return f"with a bias it takes an even number of tokens, not {q.shape[1]}"
    return None
