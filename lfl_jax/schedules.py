"""Learning-rate schedules by optimizer step, as a fraction of the peak, as the paper's training
stack has them."""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from lfl_jax.config import OptimConfig, own_code
from lfl_jax.errors import UserError

Schedule = Callable[[object], object]
Maker = Callable[[OptimConfig, int, int], Schedule]  # of config.optim, steps and warmup steps


def find(config: OptimConfig) -> Maker:
    """What makes the schedule of a run: of SCHEDULES, or one's own. UserError where that may not
    run."""
    if not own_code.is_place(config.schedule):
        return SCHEDULES[config.schedule]
    return own_code.find(config.code, "optim.schedule", config.schedule, callable)


def make(config: OptimConfig, steps: int) -> Schedule:
    """step -> lr_t / lr for a run of this many optimizer steps; step 0 is the first update."""
    return _make(config, steps, find(config))


@functools.lru_cache(maxsize=64)
def _make(config: OptimConfig, steps: int, maker: Maker) -> Schedule:
    made = own_code.call(maker, config, steps, warmup_steps(config, steps))
    if not callable(made):
        raise UserError(
            f"optim.schedule={config.schedule} returned a {type(made).__name__}, not a function of"
            " the step"
        )
    return made


def warmup_steps(config: OptimConfig, steps: int) -> int:
    """Length of the warmup of a run of this many steps."""
    return config.warmup_steps or round(config.warmup_fraction * steps)


def cooldown_start(config: OptimConfig, steps: int) -> int:
    """The step at which a trapezoid begins to fall: not before the warmup's end (llm-foundry)."""
    return max(warmup_steps(config, steps), steps - round(config.cooldown_fraction * steps))


def _cosine(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    """a + (1 - a)(1 + cos(pi (t - warmup) / (steps - warmup))) / 2 after warmup, a = final_fraction
    (Composer)."""
    final = config.final_fraction

    def fraction(step: object) -> object:
        progress = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        return _warm(step, warmup, final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))

    return fraction


def _linear(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    """Linear from 1 after warmup to final_fraction at the end."""
    final = config.final_fraction

    def fraction(step: object) -> object:
        progress = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        return _warm(step, warmup, 1.0 - (1.0 - final) * progress)

    return fraction


def _trapezoid(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    """1 after warmup, then linear to 0 over the last cooldown_fraction of the run (inverse square
    root, a_d = 1)."""
    start = cooldown_start(config, steps)

    def fraction(step: object) -> object:
        return _warm(step, warmup, 1.0 - jnp.clip((step - start) / max(steps - start, 1), 0.0, 1.0))

    return fraction


def _constant(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    return lambda step: _warm(step, warmup, 1.0)


def _warm(step: object, warmup: int, after: object) -> object:
    """t / warmup before the end of warmup; its first step, t = 0, changes nothing."""
    return jnp.where(step < warmup, step / max(warmup, 1), after)


SCHEDULES: dict[str, Maker] = {
    "cosine": _cosine,
    "linear": _linear,
    "trapezoid": _trapezoid,
    "constant": _constant,
}
