"""Learning-rate schedules by optimizer step, as a fraction of the peak, as the paper's training stack has them."""

from collections.abc import Callable

import jax.numpy as jnp

from lfl_jax.config import OptimConfig

Schedule = Callable[[object], object]


def make(config: OptimConfig, steps: int) -> Schedule:
    """step -> lr_t / lr for a run of this many optimizer steps; step 0 is the first update."""
    warmup = config.warmup_steps or round(config.warmup_fraction * steps)
    return SCHEDULES[config.schedule](config, steps, warmup)


def _cosine(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    """a + (1 - a)(1 + cos(pi (t - warmup) / (steps - warmup))) / 2 after warmup, a = final_fraction (Composer)."""
    final = config.final_fraction

    def fraction(step: object) -> object:
        progress = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        return _warm(step, warmup, final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))

    return fraction


def _trapezoid(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    """1 after warmup, then linear to 0 over the last cooldown_fraction of the run (inverse square root, a_d = 1)."""
    start = max(warmup, steps - round(config.cooldown_fraction * steps))

    def fraction(step: object) -> object:
        return _warm(step, warmup, 1.0 - jnp.clip((step - start) / max(steps - start, 1), 0.0, 1.0))

    return fraction


def _constant(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    return lambda step: _warm(step, warmup, 1.0)


def _warm(step: object, warmup: int, after: object) -> object:
    """t / warmup before the end of warmup; its first step, t = 0, changes nothing."""
    return jnp.where(step < warmup, step / max(warmup, 1), after)


SCHEDULES: dict[str, Callable[[OptimConfig, int, int], Schedule]] = {
    "cosine": _cosine,
    "trapezoid": _trapezoid,
    "constant": _constant,
}
