"""Commands that run in one process, and refuse to be started as several."""

import os
import sys
from collections.abc import Sequence

from lfl_jax.config.command_line import DISTRIBUTED
from lfl_jax.errors import UserError

# How many processes a launcher started with this command: ours, torchrun's, srun's (of a step, not
# of the batch script, which runs once), Open MPI's.
STARTED = ("LFL_PROCESSES", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def require_one(command: str, words: Sequence[str]) -> None:
    """UserError where this command line, or its launcher, starts several processes.

    For commands that run in one: several would write the same files.
    """
    flags = [word for word in words if word.partition("=")[0].removeprefix("--") in DISTRIBUTED]
    several = [name for name in STARTED if os.environ.get(name, "1") not in ("", "0", "1")]
    evidence = flags + [f"{name}={os.environ[name]}" for name in several]
    # Not imported for this: who has not imported it has not joined others, and may ask for --help.
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        evidence.append(f"jax has {jax.process_count()}")
    if evidence:
        raise UserError(
            f"{command} runs in one process, also on a run that several trained ({evidence[0]}):"
            " start it once, on one host"
        )
