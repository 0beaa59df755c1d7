"""Whether a run directory holds every result that its config asks for; if not, what it lacks."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from lfl_jax.config import Config
from lfl_jax.errors import UserError
from lfl_jax.evals.tasks import TASKS
from lfl_jax.io import workdir
from lfl_jax.run_setup import run_length
from lfl_jax.studies.records import run_directories
from lfl_jax.studies.running import derived

RESULTS = "results.json"  # what a run writes last


def recorded(folder: Path, config: Config) -> Config | None:
    """The config that a directory of this run was last started with, finished or not.

    None where there is no run yet; UserError where there is another run. Fields that are newer than
    the record have their default.
    """
    if not (folder / workdir.CONFIG_FILE).exists():
        return None
    before = Config.from_record(workdir.read_config(folder))
    if before.hash() != config.hash():
        raise UserError(f"{folder} holds a run of another config; give the study another --workdir")
    return before


def is_finished(folder: Path, config: Config) -> bool:
    """Whether a directory holds this run with its results; UserError where it holds another run."""
    if not _has_ended(folder, config):
        return False
    return not (_lost_at_the_end(folder, config) or _lost_along(folder, config))


def lost(folder: Path, config: Config) -> str:
    """What the directory of a run that ended no longer holds whole, in words; "" for nothing."""
    if not _has_ended(folder, config):
        return ""
    return _lost_at_the_end(folder, config) or _lost_along(folder, config)


def prepare_again(folder: Path, config: Config) -> str:
    """Make a run that lost records ready to be done again; returns what `lost` says.

    Those of its end are computed from its last checkpoint. Those of its training need the models of
    then, so that it trains once more.
    """
    reason = lost(folder, config)
    if reason and _lost_along(folder, config):
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return reason


def _has_ended(folder: Path, config: Config) -> bool:
    """Whether it did all that this config asks for, as far as its own record says."""
    before = recorded(folder, config)
    if before is None or not (folder / RESULTS).exists():
        return False
    # What is evaluated may change between two starts: the evaluations are then done again.
    return before.values()["eval"] == config.values()["eval"]


def _lost_at_the_end(folder: Path, config: Config) -> str:
    e = config.eval
    names = {"before": (*e.tasks, *e.base_tasks), "after": e.tasks}
    for when in run_directories.WHEN:
        expected = {*_expected(config, names[when]), *_reported(folder, when)}
        if missing := _missing(folder / "evals" / when, expected):
            return missing
    # Files that are there may have been cut off.
    try:
        run_directories.read(folder)
    except UserError as error:
        return str(error)
    return ""


def _lost_along(folder: Path, config: Config) -> str:
    # Without training nothing is evaluated on the way.
    if (folder / derived.RECORD).exists():
        return ""
    tasks = _expected(config, config.eval.every_tasks)
    steps = config.train.steps
    for step in sorted({*run_length.evaluation_steps(config, steps), steps}) if steps else ():
        if missing := _missing(folder / "evals" / f"dev-{step:06d}", tasks):
            return missing
    try:
        run_directories.along(folder)
    except UserError as error:
        return str(error)
    return ""


def _missing(folder: Path, tasks: set[str]) -> str:
    """The first record file that is not there, as a person would look for it."""
    names = [name for name in sorted(tasks) if not (folder / f"{name}.jsonl").exists()]
    return f"evals/{folder.name}/{names[0]}.jsonl is missing" if names else ""


def _expected(config: Config, names: tuple[str, ...]) -> set[str]:
    """Of tasks "name:n", those of this package that are evaluated whatever the run's data."""
    known = (TASKS[name] for name in config.eval.items(names) if name in TASKS)
    return {task.name for task in known if not task.may_be_skipped}


def _reported(folder: Path, when: str) -> Iterator[str]:
    """The tasks that the run's results have numbers of."""
    # Half a file, or one of an older form, names nothing: what the config asks for still counts.
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        rows = json.loads((folder / RESULTS).read_text("utf-8"))["rows"]
        # A mean over several tasks has no records of its own.
        yield from {row["task"] for row in rows if row["variant"] == when and row["task"] in TASKS}
