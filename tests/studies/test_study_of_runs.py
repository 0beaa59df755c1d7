"""A study of anybody's runs: planted answers are found, faults are said, the report holds it all."""

import contextlib
import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from planted_study import ITEMS, MEASURES, RATES, SEEDS, answer, write_study

from lfl_jax import compare
from lfl_jax.errors import UserError
from lfl_jax.report.study import parquet, tables
from lfl_jax.statistics.verdicts import Verdict
from lfl_jax.studies import records, runs
from lfl_jax.studies.answers import Question
from lfl_jax.studies.arms import Measure, Measures, grids
from lfl_jax.studies.findings import find
from lfl_jax.studies.points import AS_TRAINED, Point


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study") / "s")


def test_a_planted_gap_is_found_at_matched_learning(folder):
    primary, secondary = answer(folder).answers
    assert (primary.first, primary.second) == ("full", "lora")
    assert primary.decision.verdict is Verdict.MORE
    low, high = primary.decision.effect.interval()
    assert low < 0.15 < high
    assert secondary.p_holm is not None and primary.p_holm is None


def test_two_copies_of_a_method_are_not_told_apart(tmp_path):
    findings = answer(write_study(tmp_path / "s", penalty=0.0))
    assert findings.answers[0].decision.verdict in (Verdict.EQUIVALENT, Verdict.UNDECIDED)


def test_what_the_divergence_explains_is_not_the_method_s(tmp_path):
    place = write_study(tmp_path / "s", penalty=0.08, divergence=True)
    measures = Measures(MEASURES.learning, MEASURES.forgetting, Measure("kl", "score"))
    findings = answer(place, measures=measures)
    by_equal = {a.equal: a for a in findings.answers}
    # At equal learning the first method forgets more; it also went further, and that is all of it.
    assert by_equal["learning"].decision.verdict is Verdict.MORE
    for equal in ("divergence", "divergence, by regression"):
        low, high = by_equal[equal].decision.effect.interval()
        assert low < 0 < high and high - low < 0.15, equal
    explained = by_equal["divergence, by regression"].evidence
    assert explained.r2_divergence > explained.r2_method + 0.3
    assert findings.answers[0].equal == "learning"


def test_arms_are_the_scores_by_seed_cell_and_item(folder):
    (base,) = records.read(str(folder / "base.csv"))
    grid = grids(base, runs.read(folder / "runs.csv"), MEASURES)["lora"]
    assert grid.arm.x.values.shape == (SEEDS, len(RATES), ITEMS)
    (one,) = records.read(str(folder / "lora-0.001-2.csv"))
    cell = grid.cells.index((0.001, 160, AS_TRAINED))
    values = one.tasks["target"]["score"].column.values()
    assert grid.arm.x.values[2, cell].tolist() == values
    lost = base.tasks["source"]["score"].estimate.mean - one.tasks["source"]["score"].estimate.mean
    assert grid.arm.y.values[2, cell].mean() == pytest.approx(lost)


def test_scales_of_finished_runs_are_cells_of_their_own(folder, tmp_path):
    lines = (folder / "runs.csv").read_text().splitlines()
    scaled = [f"{lines[0]},scale"]
    for line in lines[1:]:
        method, lr, *rest = line.split(",")
        # The same scores, as five scales of the runs at one rate.
        lr, scale = ("0.001", 0.2 * (1 + RATES.index(float(lr)))) if method == "lora" else (lr, "")
        scaled.append(",".join((method, lr, *rest, str(scale))))
    listed = tmp_path / "runs.csv"
    listed.write_text("\n".join(scaled).replace(",160,", f",160,{folder}/") + "\n")
    (base,) = records.read(str(folder / "base.csv"))
    findings = find(base, runs.read(listed), Question(MEASURES, 0.03))
    before, after = answer(folder).grids["lora"], findings.grids["lora"]
    assert [cell.mark for cell in after.cells] == [
        f"0.001 x{s:g}" for s in (0.2, 0.4, 0.6, 0.8)
    ] + ["0.001"]
    assert np.array_equal(before.arm.x.values, after.arm.x.values)
    assert "whose rates are not its own" in findings.best_rates[1].reason
    rows = [row[:4] for row in tables.points(findings).rows if row[0] == "lora"]
    assert rows[0] == ("lora", 0.001, 160, 0.2)
    (left,) = find(base, [*runs.read(listed)[1:]], Question(MEASURES, 0.03)).grids["full"].left_out
    assert "lr 0.0001, step 160: seed 0 not there" in left


def test_other_changes_of_finished_runs_are_named(folder, tmp_path):
    ranks = dict(zip(RATES, (16, 1, 2, 8, 4), strict=True))
    altered = [
        dataclasses.replace(run, lr=1e-3, point=Point("truncate", ranks[run.lr]))
        if run.method == "lora"
        else run
        for run in runs.read(folder / "runs.csv")
    ]
    (base,) = records.read(str(folder / "base.csv"))
    findings = find(base, altered, Question(MEASURES, 0.03))
    assert findings.grids["lora"].is_derived and not findings.grids["full"].is_derived
    # By rank, not by text.
    marks = [cell.mark for cell in findings.grids["lora"].cells]
    assert marks == [f"0.001 rank {rank}" for rank in (1, 2, 4, 8, 16)]
    rows = [row[:4] for row in tables.points(findings).rows]
    assert ("lora", 0.001, 160, "rank 16") in rows and ("full", 0.001, 160, 1.0) in rows
    by_change = {row[7]: row[6] for row in parquet.score_rows(findings, "planted")}
    assert by_change["rank 16"] is None and by_change[None] in (None, 1.0)
    assert "lora-0.001-160-s0-rank_2" in {run.name for run in altered}
    assert "alters finished runs" in findings.best_rates[1].reason


def test_best_learning_rates(folder):
    (_, best) = answer(folder).best_rates
    low, high = best.optimum.interval()
    assert low < 10**-2.7 < high * 1.5


def test_a_failed_run_takes_its_cell_out_and_is_said(tmp_path):
    findings = answer(write_study(tmp_path / "s", failed={("full", 1e-2, 3)}))
    assert len(findings.grids["full"].cells) == len(RATES) - 1
    (reason,) = findings.left_out
    assert reason == "full, lr 0.01, step 160: seed 3 loss was not finite at step 12"


def test_one_seed_decides_nothing(tmp_path):
    findings = answer(write_study(tmp_path / "s", seeds=1))
    assert {a.decision.verdict for a in findings.answers} == {Verdict.UNDECIDED}
    assert "at least 2 are needed" in findings.answers[0].reason


def test_no_overlap_in_learning_is_the_answer_s_reason(tmp_path):
    place = write_study(tmp_path / "s")
    lines = (place / "runs.csv").read_text().splitlines()
    # The rates at which full finetuning learned little, and LoRA much.
    kept = re.compile(r"method,|full,(0\.0001|0\.0003),|lora,(0\.001|0\.003),")
    (place / "runs.csv").write_text("\n".join(filter(kept.match, lines)) + "\n")
    primary = answer(place).answers[0]
    assert primary.decision is None and primary.evidence is None
    assert "full and lora share no range" in primary.reason


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.replace("method,", "arm,", 1), "no column method"),
        (
            lambda s: s + s.splitlines()[1].replace("full-0.0001-0.csv", "base.csv") + "\n",
            "2 runs of full, lr 0.0001, step 160, seed 0",
        ),
        (lambda s: s.replace("full,0.0001,0", "full,fast,0"), "line 2: lr 'fast' is no number"),
        (
            lambda s: re.sub(r"lora,(\S+?),\d,", r"lora,\1,9,", s),
            f"{SEEDS} runs of lora, lr 0.0001, step 160, seed 9",
        ),
        (lambda s: s.replace("full-0.0001-0.csv", "gone.csv"), "gone.csv: no such file"),
    ],
)
def test_lists_of_runs_that_contradict_are_refused(tmp_path, edit, message):
    place = write_study(tmp_path / "s")
    (place / "runs.csv").write_text(edit((place / "runs.csv").read_text()))
    with pytest.raises(UserError, match=message):
        answer(place)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"measures": Measures(Measure("target", "f1"), MEASURES.forgetting)},
            r"no target/f1; measured: target/score, source",
        ),
        ({"contrasts": (("full", "dora"),)}, "contrast of 'dora': there are full, lora"),
        ({"contrasts": (("full", "lora"),) * 5}, "5 contrasts .* at most 4"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(folder, changes, message):
    with pytest.raises(UserError, match=message):
        answer(folder, **changes)


def command(folder, out, *more):
    words = [str(folder / "base.csv"), f"--runs={folder / 'runs.csv'}", "--learning=target/score"]
    return ["", *words, "--forgetting=source/score", "--margin=0.03", f"--report={out}", *more]


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")
    out = tmp_path_factory.mktemp("report")
    with (out / "printed.txt").open("w") as file, contextlib.redirect_stdout(file):
        compare.main(command(folder, out))
    return out


def test_the_page_stands_alone_and_begins_with_the_verdicts(report):
    page = (report / "index.html").read_text()
    assert len(page.encode()) < 5_000_000
    assert "<script" not in page
    # Nothing is loaded: every link is inside of the page, and SVG's names are no addresses.
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert all(link.startswith(("data:text/csv", "#")) for link in links)
    assert page.index("Does full forget less than lora") < page.index("<svg")
    assert "No: full forgets more." in page
    assert "python -m lfl_jax.compare" in page


def test_figures_and_tables_are_on_disk(report):
    for name in ("frontier", "learning_rates", "contrasts"):
        for form in ("svg", "pdf", "png"):
            assert (report / "figures" / f"{name}.{form}").stat().st_size > 1000
    verdicts = (report / "tables" / "verdicts.csv").read_text().splitlines()
    assert verdicts[1].startswith("full,lora,learning,more,0.")
    assert r"\toprule" in (report / "tables" / "verdicts.tex").read_text()
    assert len((report / "tables" / "runs.csv").read_text().splitlines()) == 1 + 2 * 5 * SEEDS


def test_the_same_runs_give_the_same_files(folder, report, tmp_path):
    compare.main(command(folder, tmp_path))
    for file in [*report.rglob("*.csv"), *report.rglob("*.tex"), *report.rglob("*.svg")]:
        assert (tmp_path / file.relative_to(report)).read_bytes() == file.read_bytes(), file


def test_each_contrast_is_said_in_the_terminal(report):
    printed = (report / "printed.txt").read_text()
    assert "Does full forget less than lora at equal learning? No: full forgets more." in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--learning="], "--runs needs --learning"),
        (["--contrast=full"], "expected two methods"),
        (["--runs=nowhere.csv"], "no such file"),
        (["--learning=target"], "expected TASK/METRIC"),
    ],
)
def test_mistakes_on_the_command_line(folder, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        compare.main(command(folder, tmp_path, *more))


def test_the_study_needs_no_jax():
    code = (
        "import sys; from lfl_jax import compare; from lfl_jax.report.study import page;"
        " from lfl_jax.studies import findings, runs;"
        " assert not {'jax', 'torch', 'matplotlib'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_table_prints_what_does_not_exist_as_a_dash():
    from lfl_jax.report.study.tables import Table

    table = Table(
        "t", "c", ("a & b", "x"), (("one_1", 0.123456), ("two", None), ("n", float("nan")))
    )
    assert table.texts() == [["one_1", "0.1235"], ["two", "–"], ["n", "–"]]
    assert table.csv().splitlines() == ["a & b,x", "one_1,0.123456", "two,", "n,"]
    assert r"one\_1 & 0.1235 \\" in table.latex() and r"a \& b" in table.latex()
