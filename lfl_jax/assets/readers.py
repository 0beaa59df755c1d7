"""The documents of fetched datasets, as their authors wrote them.

Some come inside evaluation requests (a row per choice, the original under "doc"), some as plain
tables.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lfl_jax.assets import table_readers, table_splits, tables
from lfl_jax.assets.cache import path, provenance
from lfl_jax.errors import UserError

Doc = dict[str, Any]

# Datasets stored as evaluation requests: the fields of the original document, not what the requests
# added.
REQUEST_FIELDS = {
    "gsm8k-test": ("question", "answer"),
    # query is "Question: ...\nAnswer:", gold an index
    "arc-challenge": ("id", "query", "choices", "gold"),
    "math-test": ("problem", "solution", "answer", "level", "type"),
    "mbpp-test": ("task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list"),
}
# of its authors' tables, which have no header
MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")
UNCONDITIONAL = 1_000_000  # doc_id of requests that score a choice without its question start here


def docs(name: str) -> list[Doc]:
    """Every document of a fetched dataset, in its authors' order; reads the whole dataset into
    memory."""
    fields = REQUEST_FIELDS.get(name)
    rows = list(itertools.chain.from_iterable(map(_fetched_rows, _files(name))))
    if fields is None:
        return rows
    firsts = [row["doc"] for row in rows if row["idx"] == 0 and row["doc_id"] < UNCONDITIONAL]
    return [{field: doc[field] for field in fields} for doc in firsts]


class OwnRow(dict):
    """A row of somebody's own file: a column that an evaluation asks for and that is not there is
    their mistake."""

    def __init__(self, values: Mapping[str, Any], file: str):
        super().__init__(values)
        self._file = file

    def __missing__(self, column: str) -> Any:
        raise UserError(
            f"{self._file}: no column {column!r}, which this evaluation reads; found"
            f" {', '.join(self)}"
        )


def with_files(files: Mapping[str, str]) -> Callable[[str], list[Doc]]:
    """`docs`, with a file or folder of your own in place of some of the fetched datasets: {name:
    path}."""
    return lambda name: from_path(files[name]) if name in files else docs(name)


def from_path(path: str | Path) -> list[Doc]:
    """Every document of a file, or of the readable files of a folder in the order of their names.

    All that `tables` reads; CSV without a header has MMLU's columns, and rows without a subject are
    of the one that names their file. Of a folder with splits, the test split. Raises UserError
    where there is nothing to read.
    """
    splits = table_splits.files_by_split(Path(path))
    files = splits.get("test") or splits.get("dev") or splits["train"]
    return [OwnRow(row, str(file)) for file in files for row in _rows(file)]


def texts(path: str | Path) -> list[str]:
    """The texts of a file: paragraphs of a plain file, or the "text" of every row of .jsonl,
    .parquet and the like.

    Raises UserError where there is none.
    """
    path = Path(path)
    try:
        if table_readers.is_table(path.name) or path.is_dir():
            paragraphs = [row["text"].strip() for row in from_path(path)]
        else:
            content = path.read_text(encoding="utf-8-sig")
            paragraphs = [part.strip() for part in content.split("\n\n")]
    except (TypeError, AttributeError):
        raise UserError(f'{path}: every row needs a field "text" that is text') from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read it as UTF-8 text ({error})") from None
    if not any(paragraphs):
        raise UserError(f"{path}: the file has no text")
    return list(filter(None, paragraphs))


def gsm8k_cot_shots() -> list[tuple[str, str]]:
    """The 8 (question, answer) chain-of-thought shots of Wei et al. (2022), arXiv 2201.11903, table
    20.

    Their answers end "So the answer is N.", not "#### N": shots for lm-eval's gsm8k_cot, not for
    its gsm8k.
    """
    context = next(_fetched_rows(path("gsm8k-test", "requests.jsonl.gz")))["request"]["context"]
    # the last is the problem itself
    turns = context.removeprefix("Question: ").split("\n\nQuestion: ")[:-1]
    return [tuple(turn.split("\nAnswer: ", 1)) for turn in turns]


def _files(name: str) -> list[Path]:
    folder = path(name)
    return [folder / file for file in provenance(name)["files"] if table_readers.is_table(file)]


def _fetched_rows(file: Path) -> Iterator[Doc]:
    try:
        yield from _rows(file)
    except UserError as error:
        raise UserError(
            f"{file} cannot be read ({error}): remove its folder and fetch it again"
        ) from error


def _rows(file: Path) -> Iterator[Doc]:
    if table_readers.kind(file.name) == ".csv":
        yield from _csv(file)
    else:
        yield from tables.read_table(file)


def _csv(file: Path) -> Iterator[Doc]:
    """Rows of CSV, with MMLU's columns where the first row names none."""
    subject = {"subject": re.sub("_(test|dev|val)$", "", file.stem)}
    rows = table_readers.csv_rows(file, ",")
    first = next(rows, (1, []))
    header = (
        first[1] if "question" in first[1] or len(first[1]) != len(MMLU_COLUMNS) else MMLU_COLUMNS
    )
    for number, row in rows if header is first[1] else itertools.chain([first], rows):
        if len(row) != len(header):
            raise UserError(
                f"{file}:{number}: {len(row)} cells under {len(header)} columns"
                f" ({', '.join(header)})"
            )
        yield subject | dict(zip(header, row, strict=True))
