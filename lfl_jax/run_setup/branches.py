"""Cooldown branches: runs of several lengths for little more than the price of the longest.

With a trapezoid schedule the learning rate is constant until the cooldown. So a shorter run is the
beginning of a longer one, up to its own cooldown. It starts from the long run's checkpoint there,
and is bit-exact the run from scratch. Appendix A of the paper has its durations so.
"""

from pathlib import Path
from typing import Any

from lfl_jax import schedules
from lfl_jax import state as states
from lfl_jax.config import Config
from lfl_jax.errors import UserError
from lfl_jax.io import workdir
from lfl_jax.io.checkpoint import Checkpoints, Restored

# Fields in which a branch may differ from the long run.
OWN = (r"train\.(steps|tokens|epochs|branch_from)", r"(eval|checkpoint|log|mesh)\..*")


def check(config: Config) -> None:
    """UserError unless branch_from differs in its length, and in what it measures, alone."""
    long = Config.from_record(workdir.read_config(Path(config.train.branch_from)))
    # As recorded, with the defaults of both: a difference in the base or the data is one, too.
    fields = workdir.differences(long.to_json(), config.to_json(), OWN)
    if fields:
        raise UserError(
            f"config.train.branch_from={config.train.branch_from} differs in"
            f" {'; '.join(fields[:3])}; a branch has the long run's config but for its length"
        )


def restore(config: Config, steps: int, like: dict[str, Any], fingerprint: str) -> Restored:
    """The long run's last checkpoint that is not past the beginning of this run's cooldown.

    UserError when there is none: the long run's checkpoint.every and checkpoint.keep decide.
    """
    start = schedules.cooldown_start(config.optim, steps)
    with Checkpoints(Path(config.train.branch_from) / "checkpoints", read_only=True) as saved:
        # Older checkpoints may have lost their optimizer state, with which the branch goes on.
        whole = saved.steps_with(states.FOR_RESUME)
        usable = [step for step in whole if step <= start]
        if not usable:
            resumable = ", ".join(map(str, whole)) or "none"
            raise UserError(
                f"config.train.branch_from={config.train.branch_from}: no checkpoint at or before"
                f" step {start}, where the cooldown of {steps} steps begins; those that can be"
                f" resumed: {resumable}. Keep more with config.checkpoint.keep"
            )
        # The latest, so that the fewest steps are trained twice.
        return saved.restore(max(usable), like, base_fingerprint=fingerprint)
