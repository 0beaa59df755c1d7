"""Things several tests need: trained-looking adapters and small packed batches."""

import jax
import numpy as np

from lfl_jax import adapters
from lfl_jax.adapters.build import CONSTANTS
from lfl_jax.config import AdapterConfig
from lfl_jax.core import tree
from lfl_jax.models import llama


def adapter_for(cfg, params, kind="lora", rank=4, seed=1, trained=True, **options):
    """An adapter of this kind; `trained` moves every trainable leaf away from its initial value."""
    specs = adapters.specs(llama.specs(cfg), AdapterConfig(kind=kind, rank=rank, **options))
    adapter = adapters.init(specs, params, jax.random.key(seed))
    if not trained:
        return adapter
    keys = iter(jax.random.split(jax.random.key(seed + 100), len(jax.tree.leaves(adapter))))
    leaves = [
        x if name.split("/")[-1] in CONSTANTS else x + 0.1 * jax.random.normal(next(keys), x.shape)
        for name, x in zip(tree.paths(adapter), jax.tree.leaves(adapter), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(adapter), leaves)


def packed(lengths_per_row, seq_len, vocab, seed=0):
    """A batch of packed rows with these segment lengths; the second half of each segment carries loss."""
    rng = np.random.default_rng(seed)
    n = len(lengths_per_row)
    batch = {k: np.zeros((n, seq_len), np.int32) for k in ("tokens", "targets", "segment_ids", "positions")}
    batch["weights"] = np.zeros((n, seq_len), np.float32)
    for row, lengths in enumerate(lengths_per_row):
        start = 0
        for segment, length in enumerate(lengths, 1):
            here, ids = slice(start, start + length), rng.integers(0, vocab, length + 1)
            batch["tokens"][row, here], batch["targets"][row, here] = ids[:-1], ids[1:]
            batch["segment_ids"][row, here], batch["positions"][row, here] = segment, np.arange(length)
            batch["weights"][row, start + length // 2 : start + length] = 1
            start += length
    return batch
