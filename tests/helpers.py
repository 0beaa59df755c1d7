"""Things several tests need: trained-looking adapters, small packed batches, and the rule for tight
bounds.

The rule: a bound near float32's rounding is never a number that fitted one CPU. Two programs for
one formula round differently on each CPU (width of its vectors, fused multiply-add, number of
threads), and how far that goes is a property of the computation. `same_up_to_rounding` measures it:
it moves every input by about its last bit and sees how far the result moves. Where a float64
reference is at hand, compare with that by the same function.
"""

import jax
import numpy as np

from lfl_jax import adapters
from lfl_jax.adapters.adapter_tree import constant_mask
from lfl_jax.config import AdapterConfig
from lfl_jax.core import tree
from lfl_jax.core.sharding import make_rules
from lfl_jax.io.pretrained import linear_quantiser
from lfl_jax.models import llama


def quantised(cfg, params, form="nf4", rules=None):
    """The parameters with their linear weights in this format; rules: of more than one device."""
    rules = rules or make_rules(devices=jax.devices()[:1])
    hold, specs = linear_quantiser(form, rules), llama.specs(cfg)
    return jax.tree_util.tree_map_with_path(
        lambda path, s, x: hold(tree.name(path), s, x), specs, params,
        is_leaf=lambda x: hasattr(x, "axes"),
    )  # fmt: skip


def adapter_for(cfg, params, kind="lora", rank=4, seed=1, trained=True, **options):
    """An adapter of this kind; `trained` moves every trainable leaf away from its initial value."""
    specs = adapters.specs(llama.specs(cfg), AdapterConfig(kind=kind, rank=rank, **options))
    held = quantised(cfg, params) if "loftq" in kind else params
    adapter = adapters.init(specs, held, jax.random.key(seed), params)
    return moved(adapter, seed + 100) if trained else adapter


def moved(adapter, seed):
    """The adapter with every leaf that may train away from where it was; shared arrays stay."""
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(adapter))))
    leaves = [
        x if never_trains else x + 0.1 * jax.random.normal(next(keys), x.shape)
        for never_trains, x in zip(
            jax.tree.leaves(constant_mask(adapter)), jax.tree.leaves(adapter), strict=True
        )
    ]
    return jax.tree.unflatten(jax.tree.structure(adapter), leaves)


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


# Sums round at every term, where moving their inputs counts each term once. Measured with SSE4.2,
# AVX2 and AVX-512: never above 1.4; factors that are off by a relative 1e-5 already fail.
ROUNDINGS = 8


def same_up_to_rounding(got, want, function, *args, draws=4):
    """Assert that two results of one formula differ by no more than rounding may explain.

    function(*args) computes `want` in float32; its inputs are moved by one unit in the last place,
    at random, to see how far rounding carries. Compared leaf by leaf, by their Euclidean norms.
    """
    others = [function(*_last_bits_moved(args, draw)) for draw in range(draws)]
    centre = function(*args)
    for path, *leaves in zip(
        tree.paths(want), *map(jax.tree.leaves, (got, want, centre, *others)), strict=True
    ):
        found, wanted, middle, *others = (np.asarray(leaf, np.float64) for leaf in leaves)
        rounding = max(np.linalg.norm(other - middle) for other in others)
        error = np.linalg.norm(found - wanted)
        said = f"{path}: {error:.3g} apart; rounding explains {ROUNDINGS} x {rounding:.3g}"
        assert error <= ROUNDINGS * rounding, said


def _last_bits_moved(values, seed):
    """The same arrays, each float32 element one unit in the last place up or down, or as it was."""
    rng = np.random.default_rng(seed)

    def move(x):
        if not hasattr(x, "dtype") or x.dtype != np.float32:
            return x
        units = rng.integers(-1, 2, np.shape(x))
        return np.asarray(x) * (1 + np.finfo(np.float32).eps * units).astype(np.float32)

    return jax.tree.map(move, values)
