"""Which evaluation items the training source of a run contains: contamination.json of the run.

`data.decontaminate` does the comparison, by n-grams.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.data.decontaminate import item_text, overlaps, report
from lfl_jax.data.examples import Source
from lfl_jax.errors import UserError
from lfl_jax.evals import inputs as evaluation_inputs
from lfl_jax.evals.task import Task
from lfl_jax.evals.tasks import TASKS, find
from lfl_jax.io.progress import progress

FILE = "contamination.json"
Overlaps = dict[str, set[str]]  # {task: ids of the items that the source contains}


def find_overlaps(
    config: Config, source: Source, tasks: Mapping[str, Task] = TASKS, show_progress: bool = True
) -> dict[str, Any]:
    """`data.decontaminate.report` of the source and all items of the tasks in config.eval.tasks.

    Raises UserError for an unknown task.
    """
    # All items, whatever the limits of the run: a later evaluation may take others. Few-shot
    # examples are left out, since all prompts of a task would match where one of them does.
    unlimited = dataclasses.replace(config.eval, limit=0)
    inputs = evaluation_inputs.from_config(
        dataclasses.replace(config, eval=unlimited), without_few_shot=True
    )
    items = {}
    for name in unlimited.items(unlimited.tasks):
        task = find(name, tasks)
        items[task.name] = {item.id: item_text(item) for item in task.items(inputs)}

    texts = (example.text for example in source.examples)
    with progress(len(source.examples), "decontaminate", visible=show_progress) as advance:
        return report(overlaps(texts, items, progress=advance), items, source.provenance())


def write(folder: Path, find: Callable[[], dict[str, Any]]) -> None:
    """Write the report of a run, once: its source and tasks do not change.

    find: `find_overlaps`, called where there is no report yet, or one that is damaged.
    """
    try:
        is_written = read(folder) is not None
    except UserError:
        is_written = False
    if not is_written:
        files.write_json(folder / FILE, find())


def read(folder: Path) -> Overlaps | None:
    """The overlaps in the report of a run; None without a report, UserError for a damaged one."""
    path = folder / FILE
    if not path.exists():
        return None
    content = files.read_json_object(path)
    try:
        return {task: set(overlap["ngrams"]) for task, overlap in content["tasks"].items()}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a report of overlaps; delete it") from None
