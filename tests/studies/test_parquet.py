"""runs.parquet and items.parquet: what stands in them, and that equal scores make equal bytes."""

import csv
import dataclasses
import json

import pyarrow.parquet as pq
import pytest
from planted_study import ITEMS, RATES, SEEDS, answer, write_study

from lfl_jax.report.study import parquet, tables
from lfl_jax.studies.records import run_directories

FAILED = ("full", 1e-2, 3)
RUNS = 2 * len(RATES) * SEEDS


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return answer(write_study(tmp_path_factory.mktemp("study") / "s", failed={FAILED}))


@pytest.fixture(scope="module")
def written(findings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    parquet.write(findings, "planted", folder)
    return folder


def test_the_rows_of_runs_are_the_report_s_own_numbers(findings, written):
    rows = pq.read_table(written / "runs.parquet").to_pylist()
    target = {row["run"]: row for row in rows if row["task"] == "target"}
    assert len(target) == 1 + RUNS - 1 and target["base"]["checkpoint"] == "before"
    # A cell without all of its seeds does not count in the report; its runs are here.
    reported = list(csv.DictReader(tables.runs(findings).csv().splitlines()))
    assert len(reported) == RUNS - SEEDS
    for run in reported:
        row = target[f"{run['method']}-{float(run['learning rate']):g}-160-s{run['seed']}"]
        assert row["value"] == pytest.approx(float(run["learning"]), abs=1e-12)
        assert row["low"] < row["value"] < row["high"] and row["items"] == ITEMS
        assert (row["study"], row["direction"], row["status"]) == ("planted", "higher", "finished")


def test_a_run_without_scores_has_its_reason(written):
    rows = pq.read_table(written / "runs.parquet").to_pylist()
    (missing,) = (row for row in rows if row["status"] == "missing")
    assert (missing["run"], missing["value"]) == ("full-0.01-160-s3", None)
    assert missing["reason"] == "loss was not finite at step 12"


def test_items_average_to_the_runs_values(written):
    pandas = pytest.importorskip("pandas")
    items = pandas.read_parquet(written / "items.parquet")
    assert len(items) == RUNS * 2 * ITEMS
    # As categories, text that repeats is read in small.
    assert items["item"].dtype == "category" and set(items["weight"]) == {1.0}
    means = items.groupby(["run", "task"], observed=True)["value"].mean()
    for row in pq.read_table(written / "runs.parquet").to_pylist():
        if row["status"] == "finished":
            assert means[row["run"], row["task"]] == pytest.approx(row["value"])
    assert items.loc[items["item"] == "i5", "cluster"].unique().tolist() == ["c2"]


def test_an_item_without_a_value_is_empty(findings, tmp_path):
    (task, metrics), *_ = findings.base.tasks.items()
    (name, measured), *_ = metrics.items()
    weights = (0.0, *measured.column.weights[1:])
    column = dataclasses.replace(measured.column, weights=weights)
    scored = {task: {name: dataclasses.replace(measured, column=column)}}
    base = dataclasses.replace(findings.base, tasks=scored)
    parquet.write(dataclasses.replace(findings, base=base, runs=()), "x", tmp_path)
    first, second, *_ = pq.read_table(tmp_path / "items.parquet").to_pylist()
    assert (first["value"], first["weight"]) == (None, 0.0) and second["value"] is not None


def test_groups_of_rows_are_one_table(findings, written, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS", 1000)
    parquet.write(findings, "planted", tmp_path)
    assert pq.ParquetFile(tmp_path / "items.parquet").num_row_groups > 5
    whole, parts = (pq.read_table(path / "items.parquet") for path in (written, tmp_path))
    assert parts.to_pylist() == whole.to_pylist()


def test_equal_scores_make_equal_bytes(findings, written, tmp_path):
    parquet.write(findings, "planted", tmp_path)
    for name in ("runs.parquet", "items.parquet"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_repeated_text_takes_no_room(written):
    rows = RUNS * 2 * ITEMS
    assert (written / "items.parquet").stat().st_size < 4 * rows


def test_evaluations_during_training_are_checkpoints(findings, tmp_path):
    for when, score in (("after", 1.0), ("dev-000040", 0.0)):
        folder = tmp_path / "run/evals" / when
        folder.mkdir(parents=True)
        records = [{"settings": {"items": 2}, "plan": {}}]
        records += [{"id": i, "cluster": i, "acc": score, "gold_logprob": -1.0} for i in "ab"]
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        (folder / "lab_rule.jsonl").write_text(lines)
    along = run_directories.along(tmp_path / "run")
    (after,) = run_directories.read(tmp_path / "run")
    run = dataclasses.replace(findings.runs[0], scores=after, along=along)
    parquet.write(dataclasses.replace(findings, runs=(run,)), "x", tmp_path)
    rows = pq.read_table(tmp_path / "runs.parquet").to_pylist()
    values = {row["checkpoint"]: row["value"] for row in rows if row["metric"] == "acc"}
    assert values == {"40": 0.0, "after": 1.0}
