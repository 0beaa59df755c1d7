"""Transfer between the tasks of a study: planted scores give the matrix, the choice and verdicts."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from lfl_jax.core import tree
from lfl_jax.core.sharding import make_rules
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.report import results_json
from lfl_jax.report.study import figures, page, transfer
from lfl_jax.run_setup import base_model, earlier_run
from lfl_jax.statistics.effects import over_seeds
from lfl_jax.studies import grid as study_grid
from lfl_jax.studies import outcome
from lfl_jax.studies.answers import BEST_RATE, PRIMARY, Question
from lfl_jax.studies.arms import Measure, Measures
from lfl_jax.studies.claims import check
from lfl_jax.studies.claims.claim import Status
from lfl_jax.studies.findings import find
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.running import execute
from lfl_jax.studies.running.execute import State, Study
from lfl_jax.studies.runs import Run
from lfl_jax.studies.sequences import TaskConfig

ITEMS, SEEDS, RATES = 30, 4, (1e-3, 2e-3, 4e-3, 8e-3)
RIGHT = Metric("acc", "acc", "right", percent=False, interval="mean")
LOSS = Metric("nll", "nll", "loss", **QUANTITY | {"higher_is_better": False})
# How well every task is learned at each rate: best at the third.
LEARNED = (0.5, 0.7, 0.9, 0.6)
SEQUENCE = tuple(TaskConfig(name, Measure(name, "acc")) for name in ("a", "b", "c"))
QUESTION = Question(
    Measures(Measure("c", "acc"), Measure("source_nll", "nll")), 0.05, (("lora", "full"),)
)


def scores(name, rng, **means):
    """Items of every task around these means; of text, around a loss of 1."""
    noise = rng.normal(0, 0.02, (4, ITEMS))
    noise -= noise.mean(axis=1, keepdims=True)
    tasks = {}
    for row, (task, mean) in zip(noise, ({"source_nll": 1.0} | means).items(), strict=True):
        metric = LOSS if task == "source_nll" else RIGHT
        records = [
            {"id": f"i{i}", "cluster": f"i{i}", metric.name: float(mean + x)}
            for i, x in enumerate(row)
        ]
        tasks[task] = {metric.name: metric.measure(records)[0]}
    return Scores(name, tasks)


def planted(forgotten, failed=(), learned=LEARNED, rates=RATES):
    """Every later task takes this much of each earlier one, a number for each method or rate.

    That is where 0.9 was learned, and less in proportion.
    """
    rng = np.random.default_rng(0)
    runs = []
    for method, loss in forgotten.items():
        for seed in range(SEEDS):
            losses = np.broadcast_to(loss, len(rates)).tolist()
            for lr, known, taken in zip(rates, learned, losses, strict=True):
                shift = rng.normal(0, 0.005)
                for last, task in enumerate("abc"):
                    means = {
                        other: known + shift - taken * known / 0.9 * (last - j)
                        if j <= last
                        else 0.1
                        for j, other in enumerate("abc")
                    }
                    name = f"{method}-{lr}-{seed}-{task}"
                    run = scores(name, rng, **means)
                    reason = "no room" if (method, task, seed) in failed else ""
                    given = (None, reason) if reason else (run, "")
                    runs.append(Run(method, lr, seed, 80, *given, task=task))
    base = scores("base", rng, a=0.05, b=0.05, c=0.05)
    return find(base, runs, QUESTION, sequence=SEQUENCE)


@pytest.fixture(scope="module")
def findings():
    return planted({"lora": 0.01, "full": 0.1})


def test_by_hand_at_the_best_rate(findings):
    full = findings.transfers.by_method["full"]
    assert full.reason == "" and full.chosen_rates == "0.004"
    # a loses 0.1 twice, b once.
    assert full.at_best("backward").mean == pytest.approx(-0.15, abs=1e-9)
    assert full.at_best("forward").mean == pytest.approx(0.05, abs=1e-9)
    assert full.at_best("learned").mean == pytest.approx(0.9, abs=0.01)
    by_task = [full.by_seed(j) for j in range(3)]
    values = [((a[2] - a[0]) + (b[2] - b[1])) / 2 for a, b in zip(*by_task[:2], strict=True)]
    assert full.at_best("backward").mean == pytest.approx(over_seeds(np.array(values)).mean)
    assert full.grid.arm.y.means() == pytest.approx(0.15 * np.array(LEARNED) / 0.9)


def test_runs_of_earlier_tasks_are_no_cells_of_the_question(findings):
    assert {run.task for run in findings.runs} == {"c"}
    assert {run.task for run in findings.earlier} == {"a", "b"}
    assert len(findings.grids["lora"].cells) == len(RATES)
    assert findings.earlier[0].name == "lora-0.001-80-s0-a"


def test_the_difference_is_decided_with_the_margin(findings):
    contrasts = {one.equal: one for one in findings.transfers.contrasts}
    assert str(contrasts[BEST_RATE].decision.verdict) == "more"
    assert contrasts[BEST_RATE].decision.effect.mean == pytest.approx(0.135, abs=1e-9)
    # Over what both learned, less was there to forget.
    assert 0.08 < contrasts[PRIMARY].decision.effect.mean < 0.135
    alike = planted({"lora": 0.02, "full": 0.0}).transfers.contrasts[0]
    assert str(alike.decision.verdict) == "equivalent"


def test_the_best_rate_is_that_at_which_most_is_known_at_the_end():
    # Most is learned at the third rate, and more of it lost than at the second.
    full = planted({"lora": 0.01, "full": (0.1, 0.1, 0.4, 0.1)}).transfers.by_method["full"]
    assert full.chosen_rates == "0.002" and not full.reason
    assert full.at_best("at the end").mean == pytest.approx(0.7 - 0.1 * 0.7 / 0.9, abs=0.01)
    assert full.axes["learned"].means().argmax() == 2


def statuses(findings):
    return {one.name: one.checked for one in check(findings) if one.name.startswith("sequence")}


def test_the_published_finding_is_a_rule(findings):
    found = {name: checked.status for name, checked in statuses(findings).items()}
    assert set(found.values()) == {Status.REPRODUCED} and len(found) == 3
    reversed_ = statuses(planted({"lora": 0.2, "full": 0.1}))
    assert {checked.status for checked in reversed_.values()} == {Status.CONTRADICTED}
    # The contrast the other way round is the same finding.
    swapped = dataclasses.replace(QUESTION, contrasts=(("full", "lora"),))
    other = find(findings.base, (*findings.earlier, *findings.runs), swapped, sequence=SEQUENCE)
    assert statuses(other)["sequence_forgets_less"].status is Status.REPRODUCED


def test_a_best_rate_at_the_edge_is_refused():
    edge = planted({"lora": 0.01, "full": 0.1}, learned=(0.5, 0.6, 0.7, 0.9))
    contrast = edge.transfers.contrasts[0]
    said = "the best learning rate, 0.008, is the edge of its sweep (0.001 to 0.008)"
    assert contrast.decision is None and said in contrast.reason
    assert statuses(edge)["sequence_forgets_less"].status is Status.UNTESTED
    assert said in transfer.by_method(edge).rows[0][-1]
    # No matrix is shown as if it were the method's.
    assert figures.transfer.matrix(edge) is None


def test_an_earlier_task_without_scores_leaves_out_its_cells():
    lost = planted({"lora": 0.01, "full": 0.1}, failed={("full", "b", 2)})
    assert "full" not in lost.transfers.by_method
    reason = lost.transfers.contrasts[0].reason
    assert reason.startswith("full: no learning rate has all tasks") and "no room" in reason
    assert transfer.by_method(lost).rows[-1][-1] == reason


def test_the_report_has_the_matrix_and_its_numbers(findings, tmp_path):
    table = transfer.matrix(findings)
    rows = {(row[0], row[2], row[3]): row for row in table.rows}
    # 3 tasks and the source text, of the base and after each of 3 tasks of 2 methods.
    assert len(rows) == len(table.rows) == 4 + 2 * 3 * 4
    assert rows["full", "c", "a"][6] == pytest.approx(0.7, abs=0.01)
    assert rows["full", "c", "source_nll"][5:7] == ("lower", pytest.approx(1.0))
    assert rows["the base", "the base", "a"][6] == pytest.approx(0.05)
    figure = figures.transfer.matrix(findings)
    (tmp_path / "figures").mkdir()
    svg = figure.svg()
    assert "lora" in svg and "source_nll" in svg
    contrast = transfer.contrasts(findings).rows[0]
    assert contrast[:4] == ("lora", "full", BEST_RATE, "more")
    assert len(transfer.cells(findings).rows) == 2 * len(RATES)
    sentence = transfer.sentences(findings)[0]
    assert sentence.startswith("Does lora keep more of earlier tasks than full, each") or (
        "Does lora keep more of earlier tasks than full each at its best" in sentence
    )
    assert "Yes: lora keeps more." in sentence


def test_a_study_of_one_task_has_nothing_of_it(findings):
    base, runs = findings.base, [dataclasses.replace(run, task="") for run in findings.runs]
    alone = find(base, runs, QUESTION)
    assert alone.transfers is None and transfer.verdicts(alone) == []
    assert not transfer.by_method(alone).rows and figures.transfer.matrix(alone) is None
    assert {checked.status for checked in statuses(alone).values()} == {Status.UNTESTED}
    # What is declared is what it was before there were sequences.
    assert page.question_hash(alone) != page.question_hash(findings)


@pytest.mark.slow
def test_a_study_of_the_lab_from_start_to_report(tmp_path):
    values = study_grid.load_values("configs/studies/continual.py:smoke") | {"seeds": (0,)}
    for arm in values["arms"].values():
        arm["lr"] = arm["lr"][:1]
    config = study_grid.read(values)
    study = Study(tmp_path / "study", study_grid.expand(config, tmp_path / "study"))
    assert execute.execute(study, quiet=True)
    assert set(study.states().values()) == {State.FINISHED} and len(study.runs) == 9

    for run in study.runs:
        start = results_json.saved_facts(study.run_folder(run))["provenance"].get("start")
        if not run.start:
            assert start is None
            continue
        before = study.run_folder(study.named(run.start))
        assert start["adapter"] == str(before)
        # What it began with is what the run before ended with.
        loaded = base_model.load(run.config, make_rules())
        ended = earlier_run.load_onto(before, loaded.model.params)
        brought = tree.changed(ended.params, loaded.model.params)
        trained = {"adapter": ended.adapter}
        trained |= {} if run.arm == "lora_new" else {"params": brought}
        assert start["fingerprint"] == tree.fingerprint(trained)
        base_of = [study.run_folder(x) / "evals/before" for x in (run, study.runs[0])]
        records = [(one / "lab_source_facts.jsonl").read_text().splitlines()[1:] for one in base_of]
        assert records[0] == records[1], "forgetting is since the base, before all tasks"

    page_file = outcome.write(config, study, study.states(), "the command", Console(quiet=True))
    text = page_file.read_text()
    assert "Does lora keep more of earlier tasks than full each at its best learning rate?" in text
    assert "is the edge of its sweep" in text and "Tasks, one after another: facts" in text
    rows = (page_file.parent / "tables/transfer_by_rate.csv").read_text().splitlines()
    assert len(rows) == 1 + 3
