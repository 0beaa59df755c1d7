"""The harness's own task definitions, reading fetched documents in place of the Hugging Face Hub."""

import json
from collections.abc import Callable, Sequence
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
    """Where the documents of a task are: its yaml among the harness's, and the fetched items of its splits.

    fields: a fetched document with the field names that the yaml reads. keep: which documents of the item.
    """

    yaml: str
    split: str
    item: str
    train: str | None = None
    fields: Callable[[Doc], Doc] = _same
    keep: Callable[[Doc], bool] = lambda doc: True


def arc_fields(doc: Doc) -> Doc:
    """The original question and labelled choices; exact, since the fetched query is the yaml's template filled in.

    The original label (A to E, or 1 to 5) is not in what is fetched; the yaml only looks up its position.
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
    """Put a task file per name into `folder`, of the same name as the harness's; what each reads, by name.

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
    splits = {f"{split}_split": split if split in files else None for split in ("train", "validation", "test")}
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
        "training_split": splits["train_split"],
        "validation_split": splits["validation_split"],
        "test_split": splits["test_split"],
        "fewshot_split": splits["train_split"],
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")
    items = {local.split: local.item} | ({"train": local.train} if "train" in found else {})
    return {split: {"item": items[split], "documents": records.digest(rows)} for split, rows in found.items()}


def _optional(docs: Docs, item: str) -> list[Doc]:
    try:
        return docs(item)
    except UserError:
        return []
