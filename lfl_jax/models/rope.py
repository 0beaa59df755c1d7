"""Rotary frequencies changed for contexts longer than those of training.

A frequency is in radians per token; its wavelength 2 pi / frequency in tokens. Fast ones tell
neighbours apart and stay; slow ones would reach angles that were never trained, and are divided.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class LinearRope:
    """All positions divided by a factor (arXiv 2306.15595)."""

    factor: float
    attention_factor = 1.0  # cos and sin stay as they are

    def scale(self, frequency: Float[Array, " J"], theta: float) -> Float[Array, " J"]:
        """Frequencies (radians per token) of a context stretched by the factor."""
        return frequency / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's (arXiv 2407.21783, §3.4.1 and its code).

    Wavelengths over original_length / low_frequency are multiplied by factor, those under
    original_length / high_frequency kept, those between interpolated.
    """

    factor: float
    low_frequency: float
    high_frequency: float
    original_length: int
    attention_factor = 1.0

    def scale(self, frequency: Float[Array, " J"], theta: float) -> Float[Array, " J"]:
        """Slow frequencies divided by the factor, fast ones kept, a linear blend between."""
        low, high = self.low_frequency, self.high_frequency
        # turns that a frequency makes within the original context
        turns = self.original_length * frequency / (2 * math.pi)
        undivided = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        return (undivided + (1.0 - undivided) / self.factor) * frequency


@dataclasses.dataclass(frozen=True)
class YarnRope:
    """YaRN (arXiv 2309.00071, §3.2): Llama 3.1's, blended by dimension, with larger scores.

    beta_fast, beta_slow: a frequency with at least beta_fast turns within original_length stays,
    one with at most beta_slow is divided by factor. truncate: the dimensions where they lie are
    rounded outwards. attention_factor multiplies cos and sin, and so scores by its square.
    """

    factor: float
    original_length: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def scale(self, frequency: Float[Array, " J"], theta: float) -> Float[Array, " J"]:
        """Frequencies with a linear ramp over the dimensions between beta_fast and beta_slow."""
        pairs = frequency.shape[0]

        def dimension(turns: float) -> float:
            """The pair of dimensions whose frequency makes so many turns."""
            # solves theta^(-pair / pairs) · original_length = turns · 2 pi
            return pairs * math.log(self.original_length / (turns * 2 * math.pi)) / math.log(theta)

        first, last = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        # as transformers has it: bounded by the head's dimensions, though both count pairs
        first, last = max(first, 0), min(last, 2 * pairs - 1)
        ramp = (np.arange(pairs, dtype=np.float32) - first) / (last - first or 0.001)
        divided = jnp.clip(jnp.asarray(ramp, jnp.float32), 0.0, 1.0)
        return frequency / self.factor * divided + frequency * (1.0 - divided)


@dataclasses.dataclass(frozen=True)
class FactorsRope:
    """Every frequency divided by a factor of its own: rope_freqs.weight of GGUF files."""

    factors: tuple[float, ...]
    attention_factor = 1.0

    def scale(self, frequency: Float[Array, " J"], theta: float) -> Float[Array, " J"]:
        """Frequencies divided one by one."""
        return frequency / jnp.asarray(self.factors, jnp.float32)


RopeScaling = LinearRope | Llama3Rope | YarnRope | FactorsRope
