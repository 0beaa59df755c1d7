"""Task files that read fetched documents in place of the Hugging Face Hub.

Each includes the harness's own file of the same name and changes where its documents come from, so
prompts, metrics and filters stay the harness's.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.evals import records

Doc = dict[str, Any]
Docs = Callable[[str], list[Doc]]
Sources = dict[str, dict[str, str]]  # split: its item and a digest of its documents


def _same(doc: Doc) -> Doc:
    return doc


@dataclass(frozen=True)
class Local:
    """Where the documents of a task are.

    yaml: the task's file among the harness's. split, item: the evaluated split and the fetched item
    with its documents. train: the item of the training split, for few-shot examples. fields: gives
    a document the field names that the yaml reads. keep: selects documents of the item.
    """

    yaml: str
    split: str
    item: str
    train: str | None = None
    fields: Callable[[Doc], Doc] = _same
    keep: Callable[[Doc], bool] = lambda doc: True


def arc_fields(doc: Doc) -> Doc:
    """The original question and labelled choices of a fetched document.

    Its query is the yaml's template filled in, so the question is exact. The original labels (A to
    E, or 1 to 5) are not fetched; the yaml only uses a label to find a choice.
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


# By the harness's name of the task. A task that is not listed can only read its own files or the
# Hub.
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


def write(folder: Path, names: Sequence[str], docs: Docs, *, required: bool) -> dict[str, Sources]:
    """Write a task file for each name into `folder`; what each reads, by name.

    A name whose documents are not fetched raises UserError when `required`, and else is left out.
    """
    sources = {}
    for name in names:
        try:
            sources[name] = _write_task(folder, name, docs)
        except UserError:
            if required:
                raise
    return sources


def _write_task(folder: Path, name: str, docs: Docs) -> Sources:
    import lm_eval

    # The documents as JSON lines, beside the task file that reads them.
    items, splits = _documents(LOCAL[name], docs)
    data_files = {split: str(folder / f"{name}_{split}.json") for split in splits}
    for split, rows in splits.items():
        text = "".join(json.dumps(doc) + "\n" for doc in rows)
        Path(data_files[split]).write_text(text, encoding="utf-8")
    task = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / LOCAL[name].yaml),
        "task": name,
        "tag": None,  # else the tag would come to mean the tasks of this folder only
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": data_files, "cache_dir": str(folder / "datasets")},
        "training_split": "train" if "train" in splits else None,
        "validation_split": "validation" if "validation" in splits else None,
        "test_split": "test" if "test" in splits else None,
    }
    # The harness would look for a split that is not there.
    if "train" not in splits:
        task["fewshot_split"] = None
    # JSON is YAML.
    (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")
    return {
        split: {"item": items[split], "documents": records.digest(rows)}
        for split, rows in splits.items()
    }


def _documents(local: Local, docs: Docs) -> tuple[dict[str, str], dict[str, list[Doc]]]:
    """By split the item, and its documents; the training split only where it is fetched."""
    items = {local.split: local.item}
    splits = {local.split: [local.fields(doc) for doc in docs(local.item) if local.keep(doc)]}
    if local.train and (train := _fetched(docs, local.train)):
        items["train"] = local.train
        splits["train"] = [local.fields(doc) for doc in train]
    return items, splits


def _fetched(docs: Docs, item: str) -> list[Doc]:
    try:
        return docs(item)
    except UserError:  # not fetched, or not to be had
        return []
