"""Which tokens attend to which: causal, within a segment, a branch and a window."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from lfl_jax.models.cache import Cache


@dataclasses.dataclass(frozen=True)
class AttentionMask:
    """mask (B, T, S): True where a query attends to a key.

    segment_ids (B, T): given where the mask says no more than "earlier, and of the same segment".
    Kernels that make their own mask take these.
    """

    mask: Bool[Array, "B T S"]
    segment_ids: Int[Array, "B T"] | None = None


def attention_mask(
    segment_ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    *,
    branch_ids: Int[Array, "B T"] | None = None,
    cache: Cache | None = None,
    window: int | None = None,
) -> AttentionMask:
    """The mask of T queries over themselves, or over the S slots of a cache that holds them.

    segment_ids: a token attends to earlier tokens of its own segment. branch_ids: inside a segment,
    branch 0 is seen by all, branch b > 0 by itself. window: a token attends to itself and the
    window - 1 positions before it.
    """
    first_slot = 0 if cache is None else cache.next_slot
    key_segments = segment_ids if cache is None else cache.segment_ids
    queries, keys = segment_ids.shape[1], key_segments.shape[1]

    # over slots: the order of tokens in a row, whatever their positions
    causal = (first_slot + jnp.arange(queries))[:, None] >= jnp.arange(keys)[None, :]
    mask = causal[None] & (segment_ids[:, :, None] == key_segments[:, None, :])

    is_windowed = window is not None and keys > window
    if is_windowed:
        # Slots are not positions: prompts are padded on the left, and a row may hold several
        # documents or branches.
        key_positions = positions if cache is None else jnp.cumsum(key_segments > 0, axis=1) - 1
        mask = mask & (positions[:, :, None] - key_positions[:, None, :] < window)

    if branch_ids is not None:
        query_branch, key_branch = branch_ids[:, :, None], branch_ids[:, None, :]
        mask = mask & ((key_branch == 0) | (key_branch == query_branch))

    # a kernel is causal over the same T tokens only
    only_segments = branch_ids is None and cache is None and not is_windowed
    return AttentionMask(mask, segment_ids if only_segments else None)
