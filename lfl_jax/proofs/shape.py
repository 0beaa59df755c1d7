"""A model of the same family, small: its shape, and the weights of a real one cut to it."""

import dataclasses

import jax
import numpy as np

from lfl_jax.core import spec
from lfl_jax.core.types import Params
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig

# Several tiles, groups of 64 for NF4, heads that a tensor axis of two splits, and two layers: what
# a whole model has, in a step that compiles in seconds.
D_MODEL, D_FF, LAYERS, KEY_HEADS, QUERIES_OF_A_KEY, HEAD_DIM, WINDOW = 64, 128, 2, 2, 3, 16, 32


def reduced(cfg: ModelConfig, vocabulary: int) -> ModelConfig:
    """The shape with fewer layers, heads and channels; everything else is the model's own."""
    n_kv_heads = min(cfg.n_kv_heads, KEY_HEADS)
    queries = min(cfg.n_heads // cfg.n_kv_heads, QUERIES_OF_A_KEY)
    # Factors of a longer context are one for each pair of a head's channels.
    head_dim = cfg.head_dim if cfg.rope_scaling else min(cfg.head_dim, HEAD_DIM)
    return dataclasses.replace(
        cfg,
        vocab_size=vocabulary,
        d_model=min(cfg.d_model, D_MODEL),
        d_ff=min(cfg.d_ff, D_FF),
        n_layers=min(cfg.n_layers, LAYERS),
        n_heads=n_kv_heads * queries,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        window=min(cfg.window, WINDOW) if cfg.window else None,
    )


def cut(params: Params, cfg: ModelConfig) -> Params:
    """The first rows, columns and layers of each weight of a larger model."""

    def leaf(wanted: spec.ArraySpec, x: jax.Array) -> jax.Array:
        return jax.numpy.asarray(np.asarray(x[tuple(slice(n) for n in wanted.shape)]))

    return spec.tree_map(leaf, llama.specs(cfg), params)
