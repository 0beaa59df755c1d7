"""How many optimizer steps a run has, and whether a run that began may be resumed with more."""

import dataclasses
import math
import re
from collections.abc import Callable, Collection
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lfl_jax import config as configs
from lfl_jax import notices, schedules
from lfl_jax.config import Config, locations
from lfl_jax.data import checks
from lfl_jax.data.row_estimate import estimate_rows
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import UserError
from lfl_jax.io import workdir
from lfl_jax.run_setup import base_model

LENGTHS = ("steps", "tokens", "epochs")
# Fields that may differ when a run directory is resumed, as regexes. Data and base are compared by
# content instead of by path, and `check_resumable` decides about the length.
_SECTIONS = [rf"{section}\..*" for section in configs.MAY_CHANGE]
_PATHS = [re.escape(field) for field, do in locations.FIELDS.items() if do is locations.place]
MAY_CHANGE = (*_SECTIONS, *_PATHS, rf"train\.({'|'.join(LENGTHS)})")


def total_steps(config: Config, tokenized: TokenizedSource) -> int:
    """Optimizer steps: config.train's steps, those of its tokens, or those that its epochs fill.

    Reads examples in any case, and warns of doubts about them before anything is loaded.
    """
    estimate = estimate_rows(tokenized, seed=config.seed.data, epochs=config.train.epochs)
    for text in checks.doubts(tokenized, estimate, base_model.shape(config).max_seq_len):
        notices.warn(text)
    steps = _steps(config, estimate.stats.rows)
    if estimate.stats.rows:
        passes = steps * config.train.batch / estimate.stats.rows * config.train.epochs
        for text in checks.rarely_drawn(tokenized.source, passes * estimate.examples):
            notices.warn(text)
    return steps


def _steps(config: Config, rows: int) -> int:
    """rows: that config.train.epochs fill."""
    if config.train.tokens:
        return steps_of(config, config.train.tokens)
    return config.train.steps or math.ceil(rows / config.train.batch)


def steps_of(config: Config, tokens: float) -> int:
    """Optimizer steps of so many tokens, padding included: at least one, and 0 for no tokens."""
    return max(1, round(tokens / (config.train.batch * config.data.seq_len))) if tokens else 0


def evaluation_steps(config: Config, steps: int) -> Collection[int]:
    """The steps at which a run of `steps` evaluates eval.every_tasks; 0 is the base.

    Empty where nothing is evaluated while it trains. The last step is evaluated in any case.
    """
    if config.eval.log_spaced:
        spaced = np.geomspace(1, steps, config.eval.log_spaced)
        # Neighbouring steps of a short run round to the same one.
        return {0, *map(round, spaced.tolist())}
    interval = config.eval.every or steps_of(config, config.eval.every_tokens)
    return range(0, steps + 1, interval) if interval else ()


def check_resumable(
    folder: Path, config: Config, steps: int, count_steps: Callable[[Config], int]
) -> None:
    """UserError when the run of this directory cannot be resumed with another length, `steps`.

    A longer run must have had the same learning rates so far. count_steps: optimizer steps of a
    config on the same data.
    """
    if not (folder / workdir.CONFIG_FILE).exists():
        return
    earlier = Config.from_record(workdir.read_config(folder))
    if all(getattr(earlier.train, name) == getattr(config.train, name) for name in LENGTHS):
        return

    done = last_checkpoint(folder)
    before = count_steps(dataclasses.replace(config, train=earlier.train))
    if steps < done:
        raise UserError(
            f"workdir {folder} has trained {done} steps already; {steps} are less: use another"
            " --workdir"
        )
    difference = _first_difference(config, (before, steps), done)
    if difference is not None:
        raise UserError(
            f"workdir {folder} has trained {done} steps of a run of {before}; as one of {steps} its"
            f" {config.optim.schedule} schedule would have had other learning rates from step"
            f" {difference + 1} on.\n"
            "Only a constant schedule, or a trapezoid before its cooldown, with optim.warmup_steps"
            " can be lengthened; to train further with a schedule of its own, start a new run:"
            f" --config.adapter.path={folder}"
        )


def last_checkpoint(folder: Path) -> int:
    """The last step with a complete checkpoint; 0 without any."""
    names = (path.name for path in (folder / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def _first_difference(config: Config, lengths: tuple[int, int], done: int) -> int | None:
    """The first of `done` steps at which runs of these lengths have different learning rates."""
    steps = jnp.arange(done)
    # A schedule may return a scalar for all steps.
    rates = [np.broadcast_to(schedules.make(config.optim, n)(steps), done) for n in lengths]
    different = np.flatnonzero(rates[0] != rates[1])
    return int(different[0]) if different.size else None
