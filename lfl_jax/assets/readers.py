"""The documents of fetched datasets, as their authors wrote them.

Some come inside evaluation requests (a row per choice, the original under "doc"), some as plain
tables.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    # query is "Title: ...\nBackground: ...\nQuestion: ...\nAnswer:"
    "squad": ("title", "query"),
    "mbpp-test": ("task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list"),
}
# of its authors' tables, which have no header
MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")
UNCONDITIONAL = 1_000_000  # doc_id of requests that score a choice without its question start here


def docs(name: str) -> list[Doc]:
    """Every document of a fetched dataset, in its authors' order, all of it in memory."""
    fields = REQUEST_FIELDS.get(name)
    rows = list(itertools.chain.from_iterable(map(_fetched_rows, _files(name))))
    if fields is None:
        return rows
    # A document has one request per choice; the first of them stands for it.
    firsts = [row["doc"] for row in rows if row["idx"] == 0 and row["doc_id"] < UNCONDITIONAL]
    return [_original(doc, fields) for doc in firsts]


def _original(doc: Doc, fields: Sequence[str]) -> Doc:
    """The document without what the requests added."""
    return {field: doc[field] for field in fields}


class OwnRow(dict):
    """A row of a user's own file; UserError for a column that an evaluation reads and it lacks."""

    def __init__(self, values: Mapping[str, Any], file: str):
        super().__init__(values)
        self._file = file

    def __missing__(self, column: str) -> Any:
        raise UserError(
            f"{self._file}: no column {column!r}, which this evaluation reads; found"
            f" {', '.join(self)}"
        )


def with_files(files: Mapping[str, str]) -> Callable[[str], list[Doc]]:
    """`docs`, with the user's file or folder in place of some fetched datasets: {name: path}."""
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
    """The texts of a file: the paragraphs of a plain one, the field "text" of a table's rows.

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
    """The 8 (question, answer) pairs with chains of thought of Wei et al. (2022).

    arXiv 2201.11903, table 20. Their answers end "So the answer is N.", not "#### N": shots for
    lm-eval's gsm8k_cot, not for its gsm8k.
    """
    context = next(_fetched_rows(path("gsm8k-test", "requests.jsonl.gz")))["request"]["context"]
    # The last is the problem itself.
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
    # Six cells without the word "question" are an item of MMLU, not the names of columns.
    has_header = "question" in first[1] or len(first[1]) != len(MMLU_COLUMNS)
    header = first[1] if has_header else MMLU_COLUMNS
    for number, row in rows if has_header else itertools.chain([first], rows):
        if len(row) != len(header):
            raise UserError(
                f"{file}:{number}: {len(row)} cells under {len(header)} columns"
                f" ({', '.join(header)})"
            )
        yield subject | dict(zip(header, row, strict=True))
