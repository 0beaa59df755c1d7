"""Which evaluation items the training source of a run contains: a report in the run's directory.

`data.decontaminate` does the looking; here is what it is given, and what the results are told.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.data.decontaminate import item_text, overlaps, report
from lfl_jax.data.examples import Source
from lfl_jax.evals import inputs as evaluation_inputs
from lfl_jax.evals.task import Task
from lfl_jax.evals.tasks import TASKS, find
from lfl_jax.io.metrics import progress

FILE = "contamination.json"
Overlapping = dict[str, set[str]]  # {task: ids of the items that the source contains}


def find_overlaps(
    config: Config, source: Source, tasks: Mapping[str, Task] = TASKS, show_progress: bool = True
) -> dict[str, Any]:
    """`data.decontaminate.report` of the source and every item of config.eval.tasks, without
    examples before them.

    Raises UserError for an unknown task.
    """
    evaluated = dataclasses.replace(config.eval, limit=0)
    inputs = evaluation_inputs.from_config(
        dataclasses.replace(config, eval=evaluated), without_few_shot=True
    )
    names = evaluated.items(evaluated.tasks)
    found = [find(name, tasks) for name in names]
    items = {task.name: {item.id: item_text(item) for item in task.items(inputs)} for task in found}
    texts = (example.text for example in source.examples)
    with progress(len(source.examples), "decontaminate", shown=show_progress) as advance:
        return report(overlaps(texts, items, progress=advance), items, source.provenance())


def write(
    config: Config,
    source: Source,
    folder: Path,
    tasks: Mapping[str, Task] = TASKS,
    show_progress: bool = True,
) -> None:
    """The report into a run's directory; one that is there stands, since a run's source and tasks
    do not change."""
    if not (folder / FILE).exists():
        files.write_json(folder / FILE, find_overlaps(config, source, tasks, show_progress))


def read(folder: Path) -> Overlapping | None:
    """What the report of a run found; None where there is none."""
    try:
        found = json.loads((folder / FILE).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return {task: set(about["ngrams"]) for task, about in found["tasks"].items()}
