"""The documents of fetched datasets, as their authors wrote them.

Some come inside evaluation requests (a row per choice, the original under "doc"), some as plain tables.
"""

import csv
import gzip
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lfl_jax.assets.cache import path, provenance
from lfl_jax.errors import UserError

Doc = dict[str, Any]

# Datasets stored as evaluation requests: the fields of the original document, not what the requests added.
REQUEST_FIELDS = {
    "gsm8k-test": ("question", "answer"),
    "arc-challenge": ("id", "query", "choices", "gold"),  # query is "Question: ...\nAnswer:", gold an index
    "math-test": ("problem", "solution", "answer", "level", "type"),
    "mbpp-test": ("task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list"),
}
MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")  # of its authors' tables, which have no header
UNCONDITIONAL = 1_000_000  # doc_id of requests that score a choice without its question start here


def docs(name: str) -> list[Doc]:
    """Every document of a fetched dataset, in its authors' order; reads the whole dataset into memory."""
    fields = REQUEST_FIELDS.get(name)
    rows = [row for file in _files(name) for row in _rows(file)]
    if fields is None:
        return rows
    firsts = [row["doc"] for row in rows if row["idx"] == 0 and row["doc_id"] < UNCONDITIONAL]
    return [{field: doc[field] for field in fields} for doc in firsts]


def with_files(files: Mapping[str, str]) -> Callable[[str], list[Doc]]:
    """`docs`, with a file or folder of your own in place of some of the fetched datasets: {name: path}."""
    return lambda name: from_path(files[name]) if name in files else docs(name)


def from_path(path: str | Path) -> list[Doc]:
    """Every document of a file, or of the readable files of a folder in the order of their names.

    JSON Lines (also .gz), JSON arrays, Arrow, Parquet, or CSV; tables without a header have MMLU's columns, and rows
    without a subject are of the one that names their file. Raises UserError where there is nothing to read.
    """
    place = Path(path)
    files = sorted(f for f in place.iterdir() if f.suffix in READ) if place.is_dir() else [place]
    if not files or not all(f.is_file() and f.suffix in READ for f in files):
        raise UserError(f"{path}: expected a file, or a folder of files, that ends in {', '.join(READ)}")
    return [row for file in files for row in _rows(file, "correct the file, or name another")]


def texts(path: str | Path) -> list[str]:
    """The texts of a file: paragraphs of a plain file, or the "text" of every row of .jsonl, .parquet and the like.

    Raises UserError where there is none.
    """
    place = Path(path)
    try:
        if place.suffix in READ or place.is_dir():
            found = [row["text"].strip() for row in from_path(place)]
        else:
            found = [paragraph.strip() for paragraph in place.read_text(encoding="utf-8").split("\n\n")]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f'{path}: every row needs a field "text"') from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read it as UTF-8 text ({error})") from None
    if not any(found):
        raise UserError(f"{path}: the file has no text")
    return [text for text in found if text]


def gsm8k_cot_shots() -> list[tuple[str, str]]:
    """The 8 (question, answer) chain-of-thought shots of Wei et al. (2022), arXiv 2201.11903, table 20.

    Their answers end "So the answer is N.", not "#### N": shots for lm-eval's gsm8k_cot, not for its gsm8k.
    """
    context = next(_rows(path("gsm8k-test", "requests.jsonl.gz")))["request"]["context"]
    turns = context.removeprefix("Question: ").split("\n\nQuestion: ")[:-1]  # the last is the problem itself
    return [tuple(turn.split("\nAnswer: ", 1)) for turn in turns]


def _files(name: str) -> list[Path]:
    folder = path(name)
    return [folder / file for file in provenance(name)["files"] if Path(file).suffix in READ]


def _rows(file: Path, remedy: str = "remove its folder and fetch it again") -> Iterator[Doc]:
    try:
        yield from READ[file.suffix](file)
    except (ValueError, EOFError, OSError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error}): {remedy}") from error


def _gzipped_jsonl(file: Path) -> Iterator[Doc]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _jsonl(file: Path) -> Iterator[Doc]:
    with open(file, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _json(file: Path) -> Iterator[Doc]:
    yield from json.loads(file.read_text(encoding="utf-8"))


def _arrow(file: Path) -> Iterator[Doc]:
    import pyarrow

    with pyarrow.OSFile(str(file)) as source, pyarrow.ipc.open_stream(source) as batches:
        for batch in batches:
            yield from batch.to_pylist()


def _parquet(file: Path) -> Iterator[Doc]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as table:
        for batch in table.iter_batches():
            yield from batch.to_pylist()


def _csv(file: Path) -> Iterator[Doc]:
    subject = {"subject": re.sub("_(test|dev|val)$", "", file.stem)}
    with open(file, encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines)
        first = next(rows, [])
        header = first if "question" in first else MMLU_COLUMNS
        for row in rows if header is first else itertools.chain([first], rows):
            yield subject | dict(zip(header, row, strict=True))


READ = {".gz": _gzipped_jsonl, ".jsonl": _jsonl, ".json": _json, ".arrow": _arrow, ".parquet": _parquet, ".csv": _csv}
