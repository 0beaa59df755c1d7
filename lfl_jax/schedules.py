"""Learning-rate schedules: step -> lr_t / lr, as the paper's training stack (Composer) has them.

One of ours is a `Partial`: a function of the step and of a few numbers, its lengths among them. The
optimizer holds those as arrays, so that runs of other lengths share a compiled step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from lfl_jax.config import OptimConfig, own_code
from lfl_jax.errors import UserError

Schedule: TypeAlias = Callable[[ArrayLike], ArrayLike]
Number: TypeAlias = ArrayLike
# (config.optim, steps, warmup steps) -> the schedule
Maker: TypeAlias = Callable[[OptimConfig, int, int], Schedule]


def make(config: OptimConfig, steps: int) -> Schedule:
    """step -> lr_t / lr for a run of so many optimizer steps; step 0 is the first update."""
    # Runs that differ in their peak only share a schedule, and with it a compiled step. One's own
    # schedule may read the peak.
    if not own_code.is_place(config.schedule):
        config = dataclasses.replace(config, lr=1.0, weight_decay=0.0)
    return _make(config, steps, find(config))


# A schedule is part of the optimizer, which is static to jit: equal runs share one.
@functools.lru_cache(maxsize=64)
def _make(config: OptimConfig, steps: int, maker: Maker) -> Schedule:
    schedule = own_code.call(maker, config, steps, warmup_steps(config, steps))
    if not callable(schedule):
        raise UserError(
            f"optim.schedule={config.schedule} returned a {type(schedule).__name__}, not a function"
            " of the step"
        )
    return schedule


def find(config: OptimConfig) -> Maker:
    """The maker that config.optim.schedule names, in SCHEDULES or in a file.

    Raises UserError for a file that may not run.
    """
    if not own_code.is_place(config.schedule):
        return SCHEDULES[config.schedule]
    return own_code.find(config.code, "optim.schedule", config.schedule, callable)


def warmup_steps(config: OptimConfig, steps: int) -> int:
    """Length of the warmup of a run of so many steps."""
    return config.warmup_steps or round(config.warmup_fraction * steps)


def cooldown_start(config: OptimConfig, steps: int) -> int:
    """The step at which a trapezoid begins to fall: not before the warmup's end (llm-foundry)."""
    return max(warmup_steps(config, steps), steps - round(config.cooldown_fraction * steps))


def _cosine(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    """After warmup a + (1 - a) (1 + cos(pi progress)) / 2, a = final_fraction (Composer)."""
    # After the warmup, as in Composer: the cosine spans the remaining steps.
    return Partial(_cosine_at, warmup, _at_least_one(steps - warmup), config.final_fraction)


def _cosine_at(warmup: Number, length: Number, final: Number, step: ArrayLike) -> Number:
    progress = jnp.minimum(step - warmup, length) / length
    wave = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return _after_warmup(warmup, step, (1 - final) * wave + final)


def _linear(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    """After warmup linear from 1 to final_fraction."""
    return Partial(_linear_at, warmup, warmup, _at_least_one(steps - warmup), config.final_fraction)


def _trapezoid(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    """After warmup 1, then linear to 0 over the last cooldown_fraction of the run."""
    start = cooldown_start(config, steps)
    return Partial(_linear_at, warmup, start, _at_least_one(steps - start), 0.0)


def _linear_at(
    warmup: Number, start: Number, length: Number, final: Number, step: ArrayLike
) -> Number:
    remaining = 1 - jnp.clip(step - start, 0, length) / length
    return _after_warmup(warmup, step, (1 - final) * remaining + final)


def _constant(config: OptimConfig, steps: int, warmup: int) -> Schedule:
    """1 after warmup."""
    return Partial(_constant_at, warmup)


def _constant_at(warmup: Number, step: ArrayLike) -> Number:
    return _after_warmup(warmup, step, jnp.ones_like(step, jnp.float32))


def _after_warmup(warmup: Number, step: ArrayLike, ratio: Number) -> Number:
    """t / warmup before the end of warmup, so that step 0 changes nothing; then the ratio."""
    return jnp.where(step < warmup, step / jnp.maximum(warmup, 1), ratio)


def _at_least_one(steps: int) -> int:
    """A decay over no steps has no rate."""
    return max(steps, 1)


SCHEDULES: dict[str, Maker] = {
    "cosine": _cosine,
    "linear": _linear,
    "trapezoid": _trapezoid,
    "constant": _constant,
}
