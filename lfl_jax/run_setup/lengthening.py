"""A run that goes on past the length it was started with, where its learning rates so far would
have been the same."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lfl_jax import config as configs
from lfl_jax import schedules
from lfl_jax.config import Config, locations
from lfl_jax.errors import UserError
from lfl_jax.io import workdir

LENGTHS = ("steps", "tokens", "epochs")
# Fields that may differ when a run directory is resumed, as regexes. Data and base are compared by
# content instead of by place, and `check` decides about the length.
MAY_CHANGE = (
    *(rf"{section}\..*" for section in configs.MAY_CHANGE),
    *(re.escape(field) for field, apply in locations.FIELDS.items() if apply is locations.place),
    rf"train\.({'|'.join(LENGTHS)})",
)


def check(folder: Path, config: Config, steps: int, steps_of: Callable[[Config], int]) -> None:
    """UserError when this directory's run is of another length and cannot be resumed with this one.

    steps: of this config; steps_of: optimizer steps of a config on the same data.
    """
    if not (folder / workdir.CONFIG_FILE).exists():
        return
    earlier = Config.from_record(workdir.read_config(folder))
    if all(getattr(earlier.train, name) == getattr(config.train, name) for name in LENGTHS):
        return
    done, before = reached(folder), steps_of(dataclasses.replace(config, train=earlier.train))
    if steps < done:
        raise UserError(
            f"workdir {folder} has trained {done} steps already; {steps} are less: use another"
            " --workdir"
        )
    differs = _first_difference(config, (before, steps), done)
    if differs is not None:
        raise UserError(
            f"workdir {folder} has trained {done} steps of a run of {before}; as one of {steps} its"
            f" {config.optim.schedule} schedule would have had other learning rates from step"
            f" {differs + 1} on.\n"
            "Only a constant schedule, or a trapezoid before its cooldown, with optim.warmup_steps"
            " can be lengthened;"
            " to train further with a schedule of its own, start a new run:"
            f" --config.adapter.path={folder}"
        )


def reached(folder: Path) -> int:
    """The last step of which there is a whole checkpoint; 0 without any."""
    names = (path.name for path in (folder / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def _first_difference(config: Config, lengths: tuple[int, int], reached: int) -> int | None:
    """The first of the steps trained so far that had another learning rate in a run of the other
    length."""
    rates = [
        np.broadcast_to(schedules.make(config.optim, n)(jnp.arange(reached)), reached)
        for n in lengths
    ]
    different = np.flatnonzero(rates[0] != rates[1])
    return int(different[0]) if different.size else None
