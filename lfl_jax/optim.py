"""One optax chain. It sees the trainable half only, so clipping and moments are of what trains and nothing else."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from lfl_jax.config import OptimConfig

DIRECTIONS: dict[str, Callable[[OptimConfig], optax.GradientTransformation]] = {
    "adamw": lambda c: optax.scale_by_adam(c.b1, c.b2, c.eps),
    "lionw": lambda c: optax.scale_by_lion(c.b1, c.b2),
}


@functools.lru_cache(maxsize=64)  # an optimizer is static to jit: equal runs of one process share their program
def make(config: OptimConfig, schedule: Callable) -> optax.GradientTransformation:
    """p <- p - (lr_t / lr) (lr · direction + weight_decay · p), with lora_plus · lr in place of lr for LoRA's B.

    schedule: step -> lr_t / lr. Weight decay is decoupled from the learning rate as in Composer's DecoupledAdamW and
    DecoupledLionW, which the paper used: a fraction of the weight per step, scaled by the schedule only. Learning
    rate and decay are arrays of the optimizer state, so runs that differ in them share a compiled program.
    """
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    step = optax.inject_hyperparams(_step)(lr=config.lr, weight_decay=config.weight_decay)
    return optax.chain(
        clip,
        DIRECTIONS[config.name](config),
        _faster_b(config.lora_plus),
        step,
        optax.scale_by_schedule(schedule),
    )


def _faster_b(ratio: float) -> optax.GradientTransformation:
    """LoRA+ (Hayou et al., arXiv 2402.12354): B factors learn `ratio` times as fast; weight decay is as it was."""
    if ratio == 1.0:
        return optax.identity()

    def scale(path: Any, x: Any) -> Any:
        return ratio * x if jax.tree_util.keystr(path, simple=True, separator="/").endswith("/b") else x

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def _step(lr: Any, weight_decay: Any) -> optax.GradientTransformation:
    return optax.chain(optax.scale(-lr), optax.add_decayed_weights(-weight_decay))
