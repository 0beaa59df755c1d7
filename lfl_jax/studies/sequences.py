"""Tasks that the runs of a study are trained on one after another: each from where the last ended.

What a run starts from is a part of its config: the directory of the run before it, which studies
find by its name, and the hash of that run's config (`adapter.start_config`), so that a run of a
later task is a function of its config as every other run is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lfl_jax.config import Config
from lfl_jax.studies.arms import Measure

# Of a study's directory: a directory for every run.
RUNS = "runs"
# Values of an arm's `start`: the config field that names the run before, and what it means.
STARTS = {
    "path": "trains on what the task before it ended with",
    "over": "trains a new adapter over the earlier ones, which stay as they are",
}


@dataclass(frozen=True)
class TaskConfig:
    """A task of a sequence: config fields of its runs, and its score in the runs of all tasks."""

    name: str
    score: Measure
    config: Mapping[str, object] = field(default_factory=dict)


def read(given: Sequence[Mapping[str, object]]) -> tuple[TaskConfig, ...]:
    """The tasks in their order, legal or not; raises UserError for a measure that is none."""
    return tuple(
        TaskConfig(values["name"], Measure.parse(values["score"]), dict(values["config"]))
        for values in given
    )


def wrong(
    tasks: Sequence[TaskConfig], starts: Mapping[str, str], derived: Sequence[str]
) -> Iterable[str]:
    """What is wrong with a sequence. starts: {arm: start}; derived: arms without training."""
    for arm, start in starts.items():
        if start not in STARTS:
            yield f"arm {arm}: start {start!r}; expected one of {', '.join(STARTS)}"
        elif start != "path" and not tasks:
            yield f"arm {arm}: start={start!r} is for studies with a sequence of tasks"
    names = [task.name for task in tasks]
    if len(names) == 1 or len({*names}) < len(names):
        yield f"sequence of {', '.join(names)}; expected at least 2 tasks, each once, or none"
    if tasks and derived:
        yield f"arm {derived[0]} is not trained, and a study with a sequence trains all of its arms"


def start_fields(start: str, folder: Path, name: str, config: Config) -> dict[str, str]:
    """The config fields of a run that starts from another of the same study.

    folder: the study's. name, config: of the run before.
    """
    # The hash says which run it is; where it lies is no part of a config's own hash.
    return {
        f"adapter.{start}": str(folder / RUNS / name),
        "adapter.start_config": config.hash(),
    }
