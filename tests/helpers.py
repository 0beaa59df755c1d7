"""Things several tests need: trained-looking adapters, small packed batches, and the rule for tight
bounds.

The rule: a bound near float32's rounding is never a number that fitted one CPU. `proofs.rounding`
says why, and measures it. Where a float64 reference is at hand, compare with that by the same
function.
"""

import jax
import numpy as np

from lfl_jax import adapters
from lfl_jax.config import AdapterConfig
from lfl_jax.core.sharding import make_rules
from lfl_jax.io.pretrained import stored
from lfl_jax.models import llama
from lfl_jax.proofs import rounding
from lfl_jax.proofs.perturbed import moved


def quantised(cfg, params, form="nf4", rules=None):
    """The parameters with their linear weights in this format; rules: of more than one device."""
    return stored(params, llama.specs(cfg), form, rules or make_rules(devices=jax.devices()[:1]))


def adapter_for(cfg, params, kind="lora", rank=4, seed=1, trained=True, **options):
    """An adapter of this kind; `trained` moves every trainable leaf away from its initial value."""
    specs = adapters.specs(llama.specs(cfg), AdapterConfig(kind=kind, rank=rank, **options))
    held = quantised(cfg, params) if "loftq" in kind else params
    adapter = adapters.init(specs, held, jax.random.key(seed), params)
    return moved(adapter, seed + 100) if trained else adapter


def packed(lengths_per_row, seq_len, vocab, seed=0):
    """A batch of packed rows with these segment lengths; the second half of each segment carries
    loss."""
    rng = np.random.default_rng(seed)
    n = len(lengths_per_row)
    batch = {
        k: np.zeros((n, seq_len), np.int32)
        for k in ("tokens", "targets", "segment_ids", "positions")
    }
    batch["weights"] = np.zeros((n, seq_len), np.float32)
    for row, lengths in enumerate(lengths_per_row):
        start = 0
        for segment, length in enumerate(lengths, 1):
            here, ids = slice(start, start + length), rng.integers(0, vocab, length + 1)
            batch["tokens"][row, here], batch["targets"][row, here] = ids[:-1], ids[1:]
            batch["segment_ids"][row, here], batch["positions"][row, here] = (
                segment,
                np.arange(length),
            )
            batch["weights"][row, start + length // 2 : start + length] = 1
            start += length
    return batch


def same_up_to_rounding(got, want, function, *args, draws=4):
    """Assert that two results of one formula differ by no more than rounding may explain.

    function(*args) computes `want` in float32: `rounding.distance`.
    """
    distance = rounding.distance(got, want, function, *args, draws=draws)
    assert distance.is_rounding, str(distance)
