"""Held-out splits of a source that brings none: by cluster, the same on every machine and for every
seed."""

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
    """Hash that decides the split of a cluster: 64 bits of SHA-256 of the text without outer white
    space."""
    return int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8], "big")


def split_index(
    digests: Sequence[int] | np.ndarray, split: str, held_out: tuple[str, ...] = SPLITS[1:]
) -> np.ndarray:
    """Rows of `split`, in their order, when each split in `held_out` gets the next 2% of the
    clusters.

    Clusters are ranked by hash and a held-out split gets at least one, so splits share no cluster
    and small files have them too. With fewer clusters than splits, "train" gets everything and the
    others are empty.
    """
    digests = np.asarray(digests, np.uint64)
    clusters = np.unique(digests)
    each = max(1, round(HELD_OUT * len(clusters))) if len(clusters) > len(held_out) else 0
    rank = np.searchsorted(clusters, digests)
    if split in held_out:
        first = each * held_out.index(split)
        return np.flatnonzero((rank >= first) & (rank < first + each))
    return np.flatnonzero(rank >= each * len(held_out))
