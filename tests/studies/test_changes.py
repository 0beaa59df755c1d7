"""Every measure of every cell against the base: by hand, and where the runs cannot be compared."""

import dataclasses

import numpy as np
import pytest
from planted_study import ITEMS, RATES, SEEDS, answer, write_study
from scipy import stats

from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.report.study import tables
from lfl_jax.studies import changes
from lfl_jax.studies.records import scores as record_scores


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return answer(write_study(tmp_path_factory.mktemp("study") / "s", divergence=True))


def changed(findings, task, method="lora", cell=2):
    (one,) = (
        change
        for change in findings.changes
        if (change.measure.task, change.method) == (task, method)
        and change.cell == findings.grids[method].cells[cell]
    )
    return one


def scored(findings, task, method, lr):
    runs = [run for run in findings.runs if (run.method, run.lr) == (method, lr)]
    return np.array([run.scores.tasks[task]["score"].column.values() for run in runs])


def test_a_change_is_that_of_the_items_over_seeds(findings):
    change = changed(findings, "source")
    after = scored(findings, "source", "lora", RATES[2])
    before = np.array(findings.base.tasks["source"]["score"].column.values())
    assert after.shape == (SEEDS, ITEMS)
    assert change.tuned.mean == pytest.approx(after.mean())
    assert change.change.mean == pytest.approx((after - before).mean())
    assert (change.change.seeds, change.change.clusters) == (SEEDS, ITEMS // 2)
    # The error is at least that of the seeds alone, and of the clusters of two items alone.
    differences = after - before
    by_seed = stats.sem(differences.mean(axis=1))
    by_cluster = stats.sem(differences.mean(axis=0).reshape(-1, 2).mean(axis=1))
    assert max(by_seed, by_cluster) * 0.9 < change.change.se < by_seed + by_cluster


def test_every_metric_of_every_cell_is_there(findings):
    rows = [(c.measure.task, c.method, c.cell.lr) for c in findings.changes]
    assert rows == [
        (task, method, lr)
        for task in ("target", "source", "kl")
        for method in ("full", "lora")
        for lr in RATES
    ]


def test_what_a_base_does_not_have_has_no_change(findings):
    far = changed(findings, "kl")
    assert (far.before, far.change) == (None, None) and far.tuned.mean > 0
    (row,) = (r for r in tables.measures(findings).rows if r[0] == "kl" and r[3] == "lora")
    assert row[7] is None and row[9] is None and row[10] < row[8] < row[11]


def test_the_page_has_each_method_where_it_learned_most(findings):
    rows = tables.measures(findings).rows
    best = {m: grid.cells[grid.most_learned].lr for m, grid in findings.grids.items()}
    assert [row[3] for row in rows] == ["full", "lora"] * 3
    assert all(row[4] == best[row[3]] for row in rows)
    assert len(tables.all_measures(findings).rows) == 2 * 3 * len(RATES)


def test_other_items_of_one_run_are_a_reason_and_no_number(findings):
    run = findings.runs[-1]
    column = run.scores.tasks["source"]["score"].column
    metrics = {"score": dataclasses.replace(
        run.scores.tasks["source"]["score"], column=column.take(range(1, ITEMS))
    )}  # fmt: skip
    scores = dataclasses.replace(run.scores, tasks=run.scores.tasks | {"source": metrics})
    runs = (*findings.runs[:-1], dataclasses.replace(run, scores=scores))
    made = changes.measure(findings.base, runs, findings.grids)
    reasons = {(c.measure.task, c.method, c.cell.lr): c.reason for c in made if c.reason}
    assert list(reasons) == [("source", "lora", RATES[-1])]
    (reason,) = reasons.values()
    assert f"of {scores.name} (119 items) and of base (120) are not of the same items" in reason
    row = tables.all_measures(dataclasses.replace(findings, runs=runs)).rows
    assert [r[-1] for r in row].count(reason) == 1


def perplexities(shift):
    records = [
        {"id": str(i), "cluster": str(i), "nll": (2.0 + shift) * tokens, "tokens": tokens}
        for i, tokens in enumerate((1, 5, 50, 3))
    ]
    metric = Metric("ppl", "nll", "ppl", weight="tokens", exponential=True, **QUANTITY)
    return {"text": {"ppl": metric.measure(records)[0]}}


def test_a_perplexity_is_the_exponential_of_its_ratio(findings):
    base = record_scores.Scores("base", perplexities(0.0))
    runs = [
        dataclasses.replace(run, scores=record_scores.Scores("tuned", perplexities(0.5)))
        for run in findings.runs
    ]
    for change in changes.measure(base, runs, findings.grids):
        assert change.tuned.mean == pytest.approx(np.exp(2.5))
        assert change.change.mean == pytest.approx(np.exp(2.5) - np.exp(2.0))
        # All texts got worse alike, per token: nothing is left to chance.
        assert change.change.se == pytest.approx(0.0, abs=1e-9)


def test_flips_are_over_the_seeds(findings):
    rows = tables.flips_by_method(findings).rows
    row = next(row for row in rows if row[:2] == ("source/score", "lora"))
    grid = findings.grids["lora"]
    lr = grid.cells[grid.most_learned].lr
    before = np.array(findings.base.tasks["source"]["score"].column.values())
    lost = (scored(findings, "source", "lora", lr) < before).mean(axis=1)
    assert row[5] == pytest.approx(lost.mean())
    # Nobody guesses these: chance turns none.
    assert row[7:9] == (0.0, pytest.approx(lost.mean()))
    half = stats.t.ppf(0.975, SEEDS - 1) * stats.sem(lost)
    assert row[9:11] == pytest.approx((lost.mean() - half, lost.mean() + half))


def test_counts_are_read_in_full():
    table = tables.Table("t", "c", ("items", "score"), ((10042, 0.123456),))
    assert table.texts() == [["10042", "0.1235"]]
