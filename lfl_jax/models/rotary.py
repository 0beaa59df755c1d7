"""Rotary position embedding (RoFormer, arXiv 2104.09864) of queries and keys."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lfl_jax.models.config import ModelConfig


class Rotation(NamedTuple):
    """cos and sin (B, T, 1, P/2) of every position's angles, computed once for all layers."""

    cos: Float[Array, "B T 1 P/2"]
    sin: Float[Array, "B T 1 P/2"]


def rotation(positions: Int[Array, "B T"], cfg: ModelConfig) -> Rotation:
    """Angles position · theta^(-2j/P) for pairs j of a head's P dimensions, scaled if cfg says."""
    exponent = -jnp.arange(0, cfg.head_dim, 2, dtype=jnp.float32) / cfg.head_dim
    frequency = cfg.rope_theta**exponent
    if cfg.rope_scaling is not None:
        frequency = cfg.rope_scaling.scale(frequency, cfg.rope_theta)

    # In float32: bfloat16 cannot tell positions beyond 256 apart.
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if cfg.rope_scaling is not None and cfg.rope_scaling.attention_factor != 1.0:
        cos, sin = cos * cfg.rope_scaling.attention_factor, sin * cfg.rope_scaling.attention_factor
    return Rotation(cos.astype(cfg.compute_dtype), sin.astype(cfg.compute_dtype))


def rotate(x: Float[Array, "B T H P"], rotation: Rotation) -> Float[Array, "B T H P"]:
    """x rotated in the half-split layout: pairs are (j, j + P/2)."""
    cos, sin = rotation
    # Hugging Face's layout; GGUF files pair (2j, 2j + 1), and are permuted when loaded
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
