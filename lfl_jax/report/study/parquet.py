"""All scores of a study as two Parquet files, for questions that its report does not ask.

runs.parquet    a row per run, checkpoint, task and metric, with its interval over items
items.parquet   a row per run, task, metric and item; value is empty where an item has none

The base is the run "base", at the checkpoint "before"; on the items of a further target it is "base
of" the first run of that target. Other checkpoints are "after", and the
number of steps of an evaluation during training, which may be on other items. A run without
scores has one row, with its reason. Equal scores make equal bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lfl_jax.core import files
from lfl_jax.evals.metrics import Measured
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Run

if TYPE_CHECKING:
    import pyarrow as pa

BASE = "base"
RUN = (
    ("study", "text"),
    ("run", "text"),
    ("arm", "text"),
    ("lr", "number"),
    ("steps", "count"),
    ("seed", "count"),
    ("scale", "number"),
    ("change", "text"),
)
SCORE = (
    *RUN,
    ("checkpoint", "text"),
    ("task", "text"),
    ("metric", "text"),
    ("value", "number"),
    ("low", "number"),
    ("high", "number"),
    ("items", "count"),
    ("direction", "text"),
    ("status", "text"),
    ("reason", "text"),
)
ITEM = (
    *RUN,
    ("task", "text"),
    ("metric", "text"),
    ("item", "text"),
    ("cluster", "text"),
    ("value", "number"),
    ("weight", "number"),
)
Cell = str | float | int | None
# A study of benchmarks has millions of rows of items: so many are in memory at once.
ROWS = 500_000
# ZSTD's highest levels cost minutes for the last percents.
COMPRESSION = {"compression": "zstd", "compression_level": 9}


@dataclass(frozen=True)
class Evaluated:
    """The scores of one model, and the run and checkpoint that it is of."""

    head: tuple[Cell, ...]
    checkpoint: str
    scores: Scores


def write(findings: Findings, study: str, folder: Path) -> None:
    """Both files, in a folder. study: its name, in every row."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(SCORE)
    scores = [dict(zip(schema.names, row, strict=True)) for row in score_rows(findings, study)]
    with files.replacing(folder / "runs.parquet") as partial:
        parquet.write_table(pa.Table.from_pylist(scores, schema), partial, **COMPRESSION)

    schema = _schema(ITEM)
    with (
        files.replacing(folder / "items.parquet") as partial,
        parquet.ParquetWriter(partial, schema, **COMPRESSION) as writer,
    ):
        for group in _groups(_last(findings, study), schema):
            writer.write_table(group)


def score_rows(findings: Findings, study: str) -> Iterator[tuple[Cell, ...]]:
    """The rows of runs.parquet."""
    for model in (*_bases(findings, study), *_tuned(findings.all_runs, study)):
        for task, metrics in model.scores.tasks.items():
            for measured in metrics.values():
                scored = _scored(measured)
                yield (*model.head, model.checkpoint, task, *scored, "finished", None)

    # Whoever counts runs counts those that failed, too.
    for run in findings.all_runs:
        if run.scores is None:
            missing = (None,) * (len(SCORE) - len(RUN) - 2)
            yield (*_head(run, study), *missing, "missing", run.reason)


def _bases(findings: Findings, study: str) -> Iterator[Evaluated]:
    """The base, on the items of every target."""
    by_name = {BASE: findings.base}
    known = [findings.base.contents]
    for run in findings.all_runs:
        if run.base is not None and run.base.contents not in known:
            by_name[f"{BASE} of {run.name}"] = run.base
            known.append(run.base.contents)
    for name, scores in by_name.items():
        yield Evaluated((study, name, *(None,) * (len(RUN) - 2)), "before", scores)


def _tuned(runs: Sequence[Run], study: str) -> Iterator[Evaluated]:
    """Every model of every run, in the order of its training."""
    for run in runs:
        if run.scores is not None:
            for step, scores in sorted(run.along.items()):
                yield Evaluated(_head(run, study), str(step), scores)
            yield Evaluated(_head(run, study), "after", run.scores)


def _last(findings: Findings, study: str) -> Iterator[Evaluated]:
    """The base, and every run at its end."""
    yield from _bases(findings, study)
    for model in _tuned(findings.all_runs, study):
        if model.checkpoint == "after":
            yield model


def _head(run: Run, study: str) -> tuple[Cell, ...]:
    # Where something else than a factor is done to the change, it has no scale.
    change = None if run.point.scale is not None else str(run.point)
    return study, run.name, run.method, run.lr, run.step, run.seed, run.point.scale, change


def _scored(measured: Measured) -> tuple[Cell, ...]:
    metric, estimate = measured.metric, measured.estimate
    direction = "higher" if metric.higher_is_better else "lower"
    return metric.name, estimate.mean, estimate.low, estimate.high, estimate.n, direction


def _groups(models: Iterable[Evaluated], schema: "pa.Schema") -> Iterator["pa.Table"]:
    """The rows of all models, in groups of whole models."""
    batches: list[pa.RecordBatch] = []
    for model in models:
        for task, metrics in model.scores.tasks.items():
            for name, measured in metrics.items():
                batches.append(_batch((*model.head, task, name), measured, schema))
        # Few large groups are small: every group has its own dictionary of texts.
        if sum(batch.num_rows for batch in batches) > ROWS:
            yield _group(batches, schema)
            batches = []
    if batches:
        yield _group(batches, schema)


def _group(batches: Sequence["pa.RecordBatch"], schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa

    return pa.Table.from_batches(batches, schema).unify_dictionaries()


def _batch(head: tuple[Cell, ...], measured: Measured, schema: "pa.Schema") -> "pa.RecordBatch":
    """The items of one metric."""
    import pyarrow as pa

    column = measured.column
    weights = np.asarray(column.weights, np.float64)
    # An item of weight 0 has no value; a column of totals and weights has 0 there.
    values = pa.array(column.values(), pa.float64(), mask=weights == 0)
    texts = (list(map(str, names)) for names in (column.ids, column.clusters))
    items = [pa.array(names, schema.field("item").type) for names in texts]
    repeated = [
        pa.array([cell] * len(weights), field.type)
        for cell, field in zip(head, schema, strict=False)
    ]
    arrays = [*repeated, *items, values, pa.array(weights)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _schema(columns: Sequence[tuple[str, str]]) -> "pa.Schema":
    import pyarrow as pa

    # Few different texts in many rows: they are kept once.
    types = {
        "text": pa.dictionary(pa.int32(), pa.string()),
        "number": pa.float64(),
        "count": pa.int64(),
    }
    return pa.schema([(name, types[kind]) for name, kind in columns])
