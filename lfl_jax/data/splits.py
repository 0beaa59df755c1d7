"""Held-out splits of a source that has none: by cluster, the same for every machine and seed."""

import hashlib
from collections.abc import Sequence

import numpy as np

from lfl_jax.errors import UserError

SPLITS = ("train", "dev", "test")
HELD_OUT = 0.02  # of the clusters, for each held-out split


def check(split: str, name: str) -> None:
    """Raise UserError unless `split` is one of train, dev and test."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} of {name}; there are: {', '.join(SPLITS)}")


def digest(text: str) -> int:
    """64 bits of a text's SHA-256, without outer white space: they decide a cluster's split."""
    return int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8], "big")


def split_index(
    digests: Sequence[int] | np.ndarray, split: str, held_out: tuple[str, ...] = SPLITS[1:]
) -> np.ndarray:
    """Rows of `split`, in their order, when each split in `held_out` gets 2 % of the clusters.

    A held-out split gets at least one cluster, so that small files have splits too. With no more
    clusters than held-out splits, "train" gets everything and the others are empty.
    """
    digests = np.asarray(digests, np.uint64)
    clusters = np.unique(digests)
    size = max(1, round(HELD_OUT * len(clusters))) if len(clusters) > len(held_out) else 0

    # Clusters are ranked by hash: the first `size` are the first held-out split, and so on. Rows
    # of one cluster have one rank, so that splits share no cluster.
    rank = np.searchsorted(clusters, digests)
    if split in held_out:
        first = size * held_out.index(split)
        return np.flatnonzero((rank >= first) & (rank < first + size))
    return np.flatnonzero(rank >= size * len(held_out))
