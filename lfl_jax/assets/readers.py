"""The documents of fetched datasets, as their authors wrote them.

Some come inside evaluation requests (a row per choice, the original under "doc"), some as plain tables.
"""

import gzip
import json
from collections.abc import Iterator
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
UNCONDITIONAL = 1_000_000  # doc_id of requests that score a choice without its question start here


def docs(name: str) -> list[Doc]:
    """Every document of a fetched dataset, in its authors' order; reads the whole dataset into memory."""
    fields = REQUEST_FIELDS.get(name)
    rows = [row for file in _files(name) for row in _rows(file)]
    if fields is None:
        return rows
    firsts = [row["doc"] for row in rows if row["idx"] == 0 and row["doc_id"] < UNCONDITIONAL]
    return [{field: doc[field] for field in fields} for doc in firsts]


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


def _rows(file: Path) -> Iterator[Doc]:
    try:
        yield from READ[file.suffix](file)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}): remove its folder and fetch it again") from error


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


READ = {".gz": _gzipped_jsonl, ".jsonl": _jsonl, ".json": _json, ".arrow": _arrow, ".parquet": _parquet}
