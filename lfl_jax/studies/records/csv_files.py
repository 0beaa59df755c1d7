"""A CSV file with a row per run and item: run, item, score, and maybe cluster, task, metric."""

from collections import defaultdict
from pathlib import Path

from lfl_jax.errors import UserError
from lfl_jax.evals.metrics import Measured, Metric
from lfl_jax.studies.records import csv_rows
from lfl_jax.studies.records.csv_rows import Row
from lfl_jax.studies.records.scores import Scores

REQUIRED = ("run", "item", "score")
OPTIONAL = ("cluster", "task", "metric")


def recognises(path: Path) -> bool:
    """By its name."""
    return path.is_file() and path.suffix == ".csv"


def read(path: Path, part: str = "") -> list[Scores]:
    """A model for each run, in their order; or the run called `part` alone.

    Items without a cluster are each their own. Raises UserError for missing columns, scores that
    are no numbers, and an item that occurs twice in a run.
    """
    rows_by_run: dict[str, list[Row]] = defaultdict(list)
    for row in csv_rows.read(path, REQUIRED, OPTIONAL):
        rows_by_run[row["run"]].append(row)
    if part and part not in rows_by_run:
        raise UserError(f"{path} has no run {part!r}; there are: {', '.join(rows_by_run)}")
    runs = [part] if part else list(rows_by_run)
    return [_scores(path, run, rows_by_run[run]) for run in runs]


def _scores(path: Path, run: str, rows: list[Row]) -> Scores:
    grouped: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.get("task") or "items", row.get("metric") or "score"].append(row)

    tasks: dict[str, dict[str, Measured]] = defaultdict(dict)
    for (task, metric), members in grouped.items():
        tasks[task][metric] = _measured(path, run, metric, members)
    return Scores(run, tasks)


def _measured(path: Path, run: str, name: str, rows: list[Row]) -> Measured:
    items = [row["item"] for row in rows]
    if len(set(items)) < len(items):
        twice = next(item for item in items if items.count(item) > 1)
        raise UserError(f"{path}: item {twice!r} occurs more than once in run {run!r}")

    records = [
        {
            "id": row["item"],
            "cluster": row.get("cluster") or row["item"],
            name: _score(path, row),
        }
        for row in rows
    ]
    # Nobody says in a CSV file what kind of number it holds: right or wrong is seen by the values.
    values = {record[name] for record in records}
    is_proportion = values <= {0.0, 1.0}
    metric = Metric(
        name, name, name, percent=is_proportion, interval="proportion" if is_proportion else "mean"
    )
    return metric.measure(records)[0]


def _score(path: Path, row: Row) -> float:
    score = csv_rows.finite(row["score"])
    if score is None:
        raise UserError(
            f"{path}: score {row['score']!r} of item {row['item']!r} is no finite number"
        )
    return score
