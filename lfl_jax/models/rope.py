"""Rotary frequencies changed for longer contexts. Each kind is static data and how it scales the
frequencies."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class LinearRope:
    """All positions divided by a factor (arXiv 2306.15595)."""

    factor: float
    attention_factor = 1.0

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
        turns = self.original_length * frequency / (2 * math.pi)  # in the original context
        kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        return (kept + (1.0 - kept) / self.factor) * frequency


@dataclasses.dataclass(frozen=True)
class YarnRope:
    """YaRN (arXiv 2309.00071, §3.2): as Llama 3.1's, but blended by dimension, and with larger
    scores.

    beta_fast, beta_slow: turns within original_length at and above which a frequency is kept, at
    and below which it is
    divided by factor. truncate: the dimensions where they lie are rounded outwards.
    attention_factor multiplies cos and sin, and so scores by its square.
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
            """Where, in pairs of dimensions, a frequency makes so many turns in the original
            context."""
            return pairs * math.log(self.original_length / (turns * 2 * math.pi)) / math.log(theta)

        first, last = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * pairs - 1)
        ramp = (np.arange(pairs, dtype=np.float32) - first) / (last - first or 0.001)
        divided = jnp.clip(jnp.asarray(ramp, jnp.float32), 0.0, 1.0)
        return frequency / self.factor * divided + frequency * (1.0 - divided)


@dataclasses.dataclass(frozen=True)
class FactorsRope:
    """Every frequency divided by a factor of its own, as GGUF files list them
    (rope_freqs.weight)."""

    factors: tuple[float, ...]
    attention_factor = 1.0

    def scale(self, frequency: Float[Array, " J"], theta: float) -> Float[Array, " J"]:
        """Frequencies divided one by one."""
        return frequency / jnp.asarray(self.factors, jnp.float32)


RopeScaling = LinearRope | Llama3Rope | YarnRope | FactorsRope
