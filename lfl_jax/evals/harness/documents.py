"""What the harness is run on: its own task definitions, reading fetched documents in place of the
Hugging Face Hub."""

import contextlib
import difflib
import functools
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.evals import records

Doc = dict[str, Any]
Docs = Callable[[str], list[Doc]]


def _same(doc: Doc) -> Doc:
    return doc


@dataclass(frozen=True)
class Local:
    """Where the documents of a task are: its yaml among the harness's, and the fetched items of its
    splits.

    fields: a fetched document with the field names that the yaml reads. keep: which documents of
    the item.
    """

    yaml: str
    split: str
    item: str
    train: str | None = None
    fields: Callable[[Doc], Doc] = _same
    keep: Callable[[Doc], bool] = lambda doc: True


def arc_fields(doc: Doc) -> Doc:
    """The original question and labelled choices; exact, since the fetched query is the yaml's
    template filled in.

    The original label (A to E, or 1 to 5) is not in what is fetched; the yaml only looks up its
    position.
    """
    if "query" not in doc:
        return doc
    labels = list("ABCDE"[: len(doc["choices"])])
    return {
        "id": doc["id"],
        "question": doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:"),
        "choices": {"text": list(doc["choices"]), "label": labels},
        "answerKey": labels[int(doc["gold"])],
    }


def boolq_fields(doc: Doc) -> Doc:
    """SuperGLUE's form, whose answer is a number."""
    return {"question": doc["question"], "passage": doc["passage"], "label": int(doc["answer"])}


def _math(name: str, subject: str) -> Local:
    yaml = f"hendrycks_math/hendrycks_math_{name}.yaml"
    return Local(yaml, "test", "math-test", keep=lambda doc: doc["type"] == subject)


LOCAL: dict[str, Local] = {
    "hellaswag": Local("hellaswag/hellaswag.yaml", "validation", "hellaswag"),
    "arc_challenge": Local("arc/arc_challenge.yaml", "test", "arc-challenge", fields=arc_fields),
    "winogrande": Local("winogrande/default.yaml", "validation", "winogrande"),
    "gsm8k": Local("gsm8k/gsm8k.yaml", "test", "gsm8k-test", train="gsm8k-train"),
    "boolq": Local("super_glue/boolq/default.yaml", "validation", "boolq", fields=boolq_fields),
    "hendrycks_math_algebra": _math("algebra", "Algebra"),
    "hendrycks_math_counting_and_prob": _math("counting_and_prob", "Counting & Probability"),
    "hendrycks_math_geometry": _math("geometry", "Geometry"),
    "hendrycks_math_intermediate_algebra": _math("intermediate_algebra", "Intermediate Algebra"),
    "hendrycks_math_num_theory": _math("num_theory", "Number Theory"),
    "hendrycks_math_prealgebra": _math("prealgebra", "Prealgebra"),
    "hendrycks_math_precalc": _math("precalc", "Precalculus"),
}


def write(folder: Path, names: Sequence[str], docs: Docs, *, required: bool) -> dict[str, Doc]:
    """Put a task file per name into `folder`, of the same name as the harness's; what each reads,
    by name.

    A name whose documents are not fetched is an error when `required`, and else left out.
    """
    made = {}
    for name in names:
        try:
            made[name] = _write_task(folder, name, docs)
        except UserError:
            if required:
                raise
    return made


def _write_task(folder: Path, name: str, docs: Docs) -> Doc:
    import lm_eval

    local = LOCAL[name]
    found = {local.split: [local.fields(doc) for doc in docs(local.item) if local.keep(doc)]}
    if local.train and (train := _optional(docs, local.train)):
        found["train"] = [local.fields(doc) for doc in train]
    files = {split: folder / f"{name}_{split}.json" for split in found}
    for split, file in files.items():
        file.write_text("".join(json.dumps(doc) + "\n" for doc in found[split]), encoding="utf-8")
    task = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / local.yaml),
        "task": name,
        "tag": None,  # else the tag would come to mean the tasks of this folder only
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(file) for split, file in files.items()},
            "cache_dir": str(folder / "datasets"),
        },
        "training_split": "train" if "train" in found else None,
        "validation_split": "validation" if "validation" in found else None,
        "test_split": "test" if "test" in found else None,
    }
    if "train" not in found:
        task["fewshot_split"] = None
    (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")
    items = {local.split: local.item} | ({"train": local.train} if "train" in found else {})
    return {
        split: {"item": items[split], "documents": records.digest(rows)}
        for split, rows in found.items()
    }


def _optional(docs: Docs, item: str) -> list[Doc]:
    try:
        return docs(item)
    except UserError:
        return []


def index(
    tasks: Sequence[str], folder: Path, include: str, docs: Docs | None, num_fewshot: int | None
) -> tuple[Any, dict[str, Any]]:
    """The harness's index of tasks, those with fetched documents reading them from `folder`; and
    what they read."""
    from lm_eval.tasks import TaskManager

    class Tasks(TaskManager):
        """Refuses, in a line, what cannot be evaluated."""

        def load(self, task_list: Any) -> Any:
            try:
                loaded = super().load(task_list)
            except (OSError, RuntimeError, ImportError) as error:
                reason = f"the harness cannot load this: {str(error).splitlines()[0]}"
                hint = f"\nread from the cache are {', '.join(LOCAL)}; data='hub' lets lm-eval download others"
                raise UserError(
                    reason + hint * (docs is not None and isinstance(error, OSError))
                ) from error
            for name, task in loaded["tasks"].items():
                if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
                    raise UserError(
                        f"{name} runs code that the model wrote, or shows it pictures: not"
                        " supported here"
                    )
                if "train" not in sources.get(name, ("train",)):
                    _check_shots(name, task.get_config("num_fewshot"), num_fewshot)
            return loaded

    docs = docs and functools.cache(docs)
    named = [name for name in tasks if docs and name in LOCAL]
    sources = write(folder, named, docs, required=True) if docs else {}
    paths = [str(folder), *([include] if include else [])]
    manager = Tasks(include_path=paths, include_defaults=False)
    if not all(_is_task(manager, name) for name in tasks):
        manager = Tasks(include_path=paths)  # reading all takes seconds
        _check_names(tasks, manager)
        # for groups
        rest = [name for name in LOCAL if name not in named and _is_its_own(manager, name)]
        sources |= write(folder, rest, docs, required=False) if docs else {}
        ours = TaskManager(include_path=str(folder), include_defaults=False).task_index
        manager.task_index.update({name: ours[name] for name in sources if name in rest})
    for name in named:
        # `include` has one of the same name
        if manager.task_index[name].yaml_path.parent != folder.resolve():
            del sources[name]
    return manager, sources


def _is_task(manager: Any, name: str) -> bool:
    entry = manager.task_index.get(name)
    return entry is not None and entry.kind.name == "TASK"


def _is_its_own(manager: Any, name: str) -> bool:
    import lm_eval

    entry = manager.task_index.get(name)
    return entry is not None and entry.yaml_path.is_relative_to(
        Path(lm_eval.__file__).resolve().parent
    )


def _check_names(tasks: Sequence[str], manager: Any) -> None:
    for name in tasks:
        if name not in manager.task_index and not Path(name).is_file():
            near = difflib.get_close_matches(name, manager.all_tasks, 5)
            raise UserError(
                f"lm-eval has no task {name!r}" + (f"; near it: {', '.join(near)}" if near else "")
            )


def _check_shots(task: str, default: int | None, wanted: int | None) -> None:
    """Refuse worked examples that would come from another split than the harness takes them
    from."""
    shots = default or 0 if wanted is None or default == 0 else wanted
    if shots:
        item = LOCAL[task].train
        fetch = f"`python -m lfl_jax.fetch {item}`, " if item else ""
        raise UserError(
            f"{task}: its {shots} examples in the prompt come from a training split that is not in"
            " the cache:"
            f" {fetch}num_fewshot=0, or data='hub'"
        )


@contextlib.contextmanager
def surroundings(*, offline: bool) -> Iterator[Path]:
    """A temporary folder, in which the harness is quiet off a terminal and, when offline, kept from
    the network."""
    from unittest.mock import patch

    import datasets
    import lm_eval.api.task
    from huggingface_hub import constants

    # Forked workers would hang with jax's threads; bootstrapping is quick enough without them.
    environment = {"DISABLE_MULTIPROC": "1"}
    with contextlib.ExitStack() as stack:
        if offline:
            environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
            # which read the environment when they were imported
            for module in (constants, datasets.config):
                stack.enter_context(patch.object(module, "HF_HUB_OFFLINE", True))
        stack.enter_context(patch.dict(os.environ, environment))
        bars = functools.partial(lm_eval.api.task.tqdm, disable=None)  # None: not off a terminal
        stack.enter_context(patch.object(lm_eval.api.task, "tqdm", bars))
        for logger in map(logging.getLogger, ("lm_eval", "datasets")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        if not datasets.are_progress_bars_disabled():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        yield Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lfl_jax-lm_eval-")))
