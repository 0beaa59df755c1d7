"""Loops over chunks of the positions that count: those of positive weight, moved to the front of
their rows.

Letters: B rows, T positions, S positions padded to whole chunks, C of a chunk, D width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Positions of a row and round, and the bytes of a round's logits up to which it takes twice as
# many: products of more rows are faster. The head takes 0.85 of the CPU seconds at 1 x 256 targets.
CHUNK = 64
LOGITS = 64 << 20


def positions_per_round(rows: int, vocabulary: int) -> int:
    """How many positions of every row a round takes: 2 CHUNK where their logits fit, else CHUNK."""
    # not more: a row's last round is computed whole, however few targets are left for it
    logits = rows * 2 * CHUNK * vocabulary * 4
    return 2 * CHUNK if logits <= LOGITS else CHUNK


class Chunk(NamedTuple):
    """The positions of one round in every row; weights are 0 for a filled-up one."""

    offset: Int[Array, ""]  # of the chunk among the compacted positions
    index: Int[Array, "B C"]  # of its positions in their rows
    weights: Float[Array, "B C"]

    def take(self, x: Float[Array, "B T *D"] | Int[Array, "B T"]) -> Array:
        """Values (B, C, ..) of these positions."""
        index = self.index.reshape(*self.index.shape, *(1,) * (x.ndim - 2))
        return jnp.take_along_axis(x, index, axis=1)

    def hidden(self, x: Float[Array, "B T D"]) -> Float[Array, "B C D"]:
        """Hidden states of these positions."""
        # Rows with fewer targets than the fullest fill up with others: zeroed, so that no value of
        # theirs can matter.
        return jnp.where(self.weights[..., None] > 0, self.take(x), 0)


class Compacted(NamedTuple):
    """The positions of every row, those of positive weight first.

    rounds: chunks of `size` positions that the fullest row needs.
    """

    weights: Float[Array, "B T"]
    order: Int[Array, "B S"]  # the position at each compacted one; past the end for padding
    rounds: Int[Array, ""]
    size: int

    def chunk(self, i: Int[Array, ""]) -> Chunk:
        """The positions of round i."""
        offset = i * self.size
        rows, positions = self.weights.shape
        index = jax.lax.dynamic_slice(self.order, (0, offset), (rows, self.size))
        inside = index < positions
        index = jnp.minimum(index, positions - 1)
        weights = jnp.where(inside, jnp.take_along_axis(self.weights, index, axis=1), 0.0)
        return Chunk(offset, index, weights)

    def restore(self, x: Float[Array, "B S *D"] | Bool[Array, "B S"]) -> Array:
        """Values of compacted positions, (B, T, ..), back in the order of the row."""
        back = jnp.argsort(self.order, axis=1)[:, : self.weights.shape[1]]
        return jnp.take_along_axis(x, back.reshape(*back.shape, *(1,) * (x.ndim - 2)), axis=1)


def compact(weights: Float[Array, "B T"], size: int) -> Compacted:
    """The order of positions for a loop over chunks of `size` positions per row."""
    order = jnp.argsort(weights <= 0, axis=1, stable=True)
    rounds = -(-jnp.max(jnp.sum(weights > 0, axis=1)) // size)
    rows, positions = order.shape
    padding = jnp.arange(positions, positions + -positions % size)
    padding = jnp.broadcast_to(padding, (rows, len(padding)))
    return Compacted(weights, jnp.concatenate([order, padding], axis=1), rounds, size)
