"""The harness's index of tasks, those with fetched documents reading them, and its surroundings."""

import contextlib
import difflib
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lfl_jax.errors import UserError
from lfl_jax.evals.harness import documents
from lfl_jax.evals.harness.documents import LOCAL, Docs, Sources


@runtime_checkable
class TaskManager(Protocol):
    """lm_eval.tasks.TaskManager: an index of task files, which loads tasks by name."""

    task_index: dict[str, Any]


def build(
    tasks: Sequence[str], folder: Path, include: str, docs: Docs | None, num_fewshot: int | None
) -> tuple[TaskManager, dict[str, Sources]]:
    """The harness's index, and the fetched documents that tasks in it read, by task.

    folder: where task files that read fetched documents are written. include: a folder with more
    task files, or "". docs: None where the harness downloads.
    """
    docs = docs and functools.cache(docs)
    named = [name for name in tasks if docs and name in LOCAL]
    sources = documents.write(folder, named, docs, required=True) if docs else {}
    new_manager = _manager_class(sources, num_fewshot, offline=docs is not None)

    # The harness has 14000 task files, which take seconds to read: only where a name needs them.
    paths = [str(folder), *([include] if include else [])]
    manager = new_manager(include_path=paths, include_defaults=False)
    if not all(_is_task(manager, name) for name in tasks):
        manager = new_manager(include_path=paths)
        _check_names(tasks, manager)
        if docs:
            _add_unnamed(manager, folder, named, docs, sources)

    # A file of `include` with the same name comes first, and reads what it says.
    for name in named:
        if manager.task_index[name].yaml_path.parent != folder.resolve():
            del sources[name]
    return manager, sources


def _add_unnamed(
    manager: TaskManager,
    folder: Path,
    named: Sequence[str],
    docs: Docs,
    sources: dict[str, Sources],
) -> None:
    """Give fetched documents to the tasks that groups and tags may contain, where there are any."""
    from lm_eval.tasks import TaskManager

    others = [name for name in LOCAL if name not in named and _is_the_harness_s(manager, name)]
    added = documents.write(folder, others, docs, required=False)
    files = TaskManager(include_path=str(folder), include_defaults=False).task_index
    manager.task_index.update({name: files[name] for name in added})
    sources.update(added)


def _manager_class(
    sources: Mapping[str, Sources], num_fewshot: int | None, offline: bool
) -> Callable[..., TaskManager]:
    """The harness's TaskManager, refusing in a line what cannot be evaluated."""
    from lm_eval.tasks import TaskManager

    class Tasks(TaskManager):
        # It looks at `sources` when it loads, by when `build` has filled them in.

        def load(self, task_list: Any) -> Any:
            try:
                loaded = super().load(task_list)
            except (OSError, RuntimeError, ImportError) as error:
                raise _cannot_load(error, offline) from error
            for name, task in loaded["tasks"].items():
                if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
                    raise UserError(
                        f"{name} runs code that the model wrote, or shows it pictures: not"
                        " supported here"
                    )
                # Few-shot examples must come from the split that the harness takes them from.
                if name in sources and "train" not in sources[name]:
                    _check_few_shot(name, task.get_config("num_fewshot"), num_fewshot)
            return loaded

    return Tasks


def _cannot_load(error: Exception, offline: bool) -> UserError:
    reason = f"the harness cannot load this: {str(error).splitlines()[0]}"
    if not (offline and isinstance(error, OSError)):
        return UserError(reason)
    return UserError(
        f"{reason}\nread from the cache are {', '.join(LOCAL)}; data='hub' lets lm-eval download"
        " others"
    )


def _is_task(manager: TaskManager, name: str) -> bool:
    """True for a task; groups and tags have other entries in the index."""
    entry = manager.task_index.get(name)
    return entry is not None and entry.kind.name == "TASK"


def _is_the_harness_s(manager: TaskManager, name: str) -> bool:
    """True where the task file is one that the harness brings."""
    import lm_eval

    entry = manager.task_index.get(name)
    installed = Path(lm_eval.__file__).resolve().parent
    return entry is not None and entry.yaml_path.is_relative_to(installed)


def _check_names(tasks: Sequence[str], manager: TaskManager) -> None:
    for name in tasks:
        if name not in manager.task_index and not Path(name).is_file():
            near = difflib.get_close_matches(name, sorted(manager.task_index), 5)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise UserError(f"lm-eval has no task {name!r}{hint}")


def _check_few_shot(task: str, default: int | None, num_fewshot: int | None) -> None:
    """UserError where few-shot examples are needed and the training split is not fetched.

    default: the number that the task names; 0 means that it has none, whatever is asked for.
    """
    count = default or 0 if num_fewshot is None or default == 0 else num_fewshot
    if count:
        item = LOCAL[task].train
        fetch = f"`python -m lfl_jax.fetch {item}`, " if item else ""
        raise UserError(
            f"{task}: its {count} examples in the prompt come from a training split that is not in"
            f" the cache: {fetch}num_fewshot=0, or data='hub'"
        )


@contextlib.contextmanager
def environment(*, offline: bool) -> Iterator[Path]:
    """A temporary folder, and a quiet harness; offline: without access to the Hub."""
    from unittest.mock import patch

    import datasets
    import lm_eval.api.task
    from huggingface_hub import constants

    # Forked workers would hang with jax's threads; bootstrapping is quick enough without them.
    variables = {"DISABLE_MULTIPROC": "1"}
    with contextlib.ExitStack() as stack:
        if offline:
            variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
            # These read the environment when they were imported, which may be long ago.
            for module in (constants, datasets.config):
                stack.enter_context(patch.object(module, "HF_HUB_OFFLINE", True))
        stack.enter_context(patch.dict(os.environ, variables))

        # disable=None: a progress bar on a terminal only
        bars = functools.partial(lm_eval.api.task.tqdm, disable=None)
        stack.enter_context(patch.object(lm_eval.api.task, "tqdm", bars))
        for logger in map(logging.getLogger, ("lm_eval", "datasets")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        if not datasets.are_progress_bars_disabled():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        yield Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lfl_jax-lm_eval-")))
