"""The report of a run: the answer, the tables, contaminated items, format, prompting."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lfl_jax.analysis import contamination
from lfl_jax.evals.records import RecordFile
from lfl_jax.evals.run import Result
from lfl_jax.evals.tasks import TASKS
from lfl_jax.report import cells, plots, results_json, table
from lfl_jax.report.rows import Report, report


def answers(right: str, ended: float = 1.0, levels: str = "") -> list[dict]:
    """A generated answer for each character: 1 right, 0 wrong, x in no form; and its level, where
    given."""
    made = []
    for i, mark in enumerate(right):
        found = {"strict": "[invalid]" if mark == "x" else "7", "exact_strict": float(mark == "1")}
        groups = [f"level_{levels[i]}"] if levels else []
        made.append(
            found
            | {
                "id": str(i),
                "cluster": str(i),
                "groups": groups,
                "exact_flexible": 0.0,
                "ended": ended,
            }
        )
    return made


def choices(right: str) -> list[dict]:
    head = {
        "gold_logprob": -1.0,
        "gold_logprob_norm": -1.0,
        "ll": [-1.0] * 4,
        "gold": 0,
        "bytes": [4] * 4,
    }
    return [
        head | {"id": str(i), "cluster": str(i), "acc": float(c), "acc_norm": float(c)}
        for i, c in enumerate(right)
    ]


def results(folder, made):
    return {
        task: Result.of(TASKS[task], RecordFile(folder / f"{task}.jsonl", {}, {}, of_task))
        for task, of_task in made.items()
    }


def both(folder, before, after, overlapping=None):
    found = report(
        results(folder / "before", before), results(folder / "after", after), overlapping
    )
    out = io.StringIO()
    table.show(found, {}, [], folder, Console(file=out, width=100))
    return found, out.getvalue()


def test_scores_without_the_items_that_the_source_contains(tmp_path):
    overlapping = {"hellaswag": {"0", "3", "9"}, "gsm8k": set()}
    made = {"hellaswag": choices("1100"), "gsm8k": answers("10")}
    found, printed = both(
        tmp_path, made, {"hellaswag": choices("1001"), "gsm8k": answers("11")}, overlapping
    )
    rows = {row.label: row for row in found.rows if row.metric.in_table}
    clean = rows["HellaSwag, acc_norm"].clean
    assert (clean.items, clean.before.mean, clean.after.mean, clean.change.mean) == (
        2,
        0.5,
        0.0,
        -0.5,
    )
    assert (clean.flips.lost, clean.flips.gained) == (1, 0)
    assert rows["GSM8K, strict match"].clean is None, "no item of it is in the source"
    assert "Without items that the training source contains" in printed
    assert printed.count("GSM8K, strict match") == 2, "the answer, and in its section"


@pytest.mark.parametrize(
    "overlapping", [None, {}, {"hellaswag": set()}, {"hellaswag": {"7"}}, {"hellaswag": set("01")}]
)
def test_no_second_table_without_a_difference_or_without_items(tmp_path, overlapping):
    made = {"hellaswag": choices("10")}
    found, printed = both(tmp_path, made, made, overlapping)
    assert all(row.clean is None for row in found.rows) and "Without items" not in printed


def test_format_and_accuracy_given_it(tmp_path):
    before, after = {"gsm8k": answers("xxxx", ended=0.0)}, {"gsm8k": answers("10x1")}
    found, printed = both(tmp_path, before, after)
    rows = {row.metric.name: row for row in found.rows}
    assert (rows["format_compliance"].before.mean, rows["format_compliance"].after.mean) == (
        0.0,
        0.75,
    )
    accuracy = rows["accuracy_given_valid_format"]
    assert (
        accuracy.before is None
        and accuracy.change is None
        and accuracy.after.mean == pytest.approx(2 / 3)
    )
    (line,) = [line for line in printed.splitlines() if line.startswith("GSM8K  ")]
    change = "0% -> 75% none -> 67% 100% -> 75% 0% -> 100%"
    assert line.split() == ["GSM8K", *change.split()]
    # Missing answers as wrong and as right: the accuracy is known to lie between, and ends at both.
    low, high = rows["accuracy_missing_wrong"], rows["accuracy_missing_right"]
    assert (low.before.mean, high.before.mean) == (0.0, 1.0)
    assert (low.after.mean, high.after.mean) == (0.5, 0.75)


def test_what_the_base_does_by_prompting_alone(tmp_path):
    found, printed = both(
        tmp_path,
        {"gsm8k": answers("00"), "source_test_shots": answers("0011")},
        {"gsm8k": answers("11")},
    )
    prompted = next(row for row in found.rows if row.task == "source_test_shots")
    assert (prompted.items, prompted.before.mean, prompted.after) == (4, 0.5, None)
    assert "The base, by prompting alone" in printed and "50.0% [15.0, 85.0]" in printed


def test_prompting_alone_is_shown_by_level_to_be_compared_with_training(tmp_path):
    shots = answers("1" * 7 + "0" * 29, levels="1" * 24 + "2" * 12)
    tested, trained = (
        answers("1" * right + "0" * (72 - right), levels="1" * 48 + "2" * 24) for right in (1, 37)
    )
    found = report(
        results(tmp_path / "before", {"source_test": tested, "source_test_shots": shots}),
        results(tmp_path / "after", {"source_test": trained}),
    )
    out = io.StringIO()
    table.show(found, {}, [], tmp_path, Console(file=out, width=80))
    prompted = out.getvalue().partition("The base, by prompting alone")[2].partition("\n\n")[0]
    rows = [" ".join(line.split()) for line in prompted.splitlines()]
    assert "held-out problems, after worked examples, exact 36 19.4% [9.8, 35.0]" in rows
    assert (
        "level 1, one step 24 29.2% [14.9, 49.2]" in rows
        and "level 2, two steps 12 0.0% [0.0, 24.2]" in rows
    )
    assert not any(word in prompted for word in ("EOS", "format")), (
        "these belong to a trained model's answers"
    )


def headlines(folder, before, after, width=80):
    found = report(results(folder / "before", before), results(folder / "after", after))
    out = io.StringIO()
    table.show(found, {}, [], folder, Console(file=out, width=width))
    return found, out.getvalue().split("\n\n")[0].splitlines()


def nll(value, spread=0.1, n=40):
    return [
        {
            "id": str(i),
            "cluster": str(i),
            "nll": 10 * (value + spread * (-1) ** i),
            "tokens": 10,
            "bytes": 40,
            "words": 8,
        }
        for i in range(n)
    ]


def shifted(value):
    """As `nll`, with changes that differ a little."""
    return [record | {"nll": record["nll"] + 0.01 * i} for i, record in enumerate(nll(value))]


def test_the_first_two_lines_are_the_answer(tmp_path):
    before = {"source_test": answers("0" * 40), "source_nll": nll(3.282)}
    after = {"source_test": answers("1" * 29 + "0" * 11), "source_nll": shifted(3.3)}
    found, lines = headlines(tmp_path, before, after)
    assert lines == [
        "learned: held-out problems, exact: 0.0% -> 72.5%, +72.5 [+57.2, +83.9]",
        "forgotten: general text, nats/token: 3.282 -> 3.319, +0.037 [+0.034, +0.041]",
    ]
    assert (found.learned.is_better, found.forgotten.is_better) == (True, False)


def test_undecided_is_said_and_better_than_nothing_is_named(tmp_path):
    before = {"source_test": answers("0110"), "source_nll": nll(3.0)}
    after = {"source_test": answers("0110"), "source_nll": shifted(2.9)}
    _, lines = headlines(tmp_path, before, after, width=100)
    assert (
        lines[0]
        == "learned: undecided, held-out problems, exact: 50.0% -> 50.0%, +0.0 [-49.0, +49.0]"
    )
    assert lines[1].startswith("forgotten: nothing, it gained, general text")
    _, lines = headlines(tmp_path / "at 80", before, after, width=80)
    assert lines[:2] == [
        "learned: undecided, held-out problems, exact: 50.0% -> 50.0%,",
        "         +0.0 [-49.0, +49.0]",
    ]
    right, wrong = ({"source_test": answers(mark * 40)} for mark in "10")
    _, lines = headlines(tmp_path / "worse", right, wrong)
    assert lines[0].startswith("learned: less than before, held-out problems")
    assert lines[-1] == "forgotten: not measured by any task of config.eval.tasks"


def test_the_answer_is_chosen_by_the_base_and_the_order_of_tasks(tmp_path):
    names = ("hellaswag", "arc_challenge", "winogrande")
    high, low = ({name: choices(right * 30) for name in names} for right in ("1110", "1000"))
    one = {"target_nll": nll(2.0), "source_test": answers("01"), "source_nll": nll(3.0)}
    found, _ = headlines(tmp_path / "high", one | high, one | low)
    assert (found.learned.task, found.forgotten.task) == ("target_nll", "mean_of_three")
    found, _ = headlines(tmp_path / "low", one | low, one | high)
    assert found.forgotten.task == "source_nll", (
        "the mean of three is at chance before: no headroom"
    )


FULL = {
    "source_test": lambda mark: answers(mark * 40),
    "source_test_plain": lambda mark: answers(mark * 40),
    "gsm8k_trained": lambda mark: answers(mark * 40),
    "humaneval_trained": lambda mark: programs(int(mark) * 3, 8),
    "target_nll": lambda mark: shifted(1.5 + int(mark)),
    "source_nll": lambda mark: shifted(2.5 + int(mark)),
    "arc_challenge": lambda mark: choices(mark * 200),
    "arc_challenge_gauntlet": lambda mark: choices(mark * 200),
    "hellaswag": lambda mark: choices(mark * 999),
    "winogrande": lambda mark: choices(mark * 200),
}


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_figure_is_wrapped_or_cut(tmp_path, width):
    """At the usual widths of terminals: a line for each row, with all of its numbers."""
    before, after = ({name: make(mark) for name, make in FULL.items()} for mark in "10")
    found = report(results(tmp_path / "before", before), results(tmp_path / "after", after))
    out = io.StringIO()
    table.show(found, {}, [], Path("out"), Console(file=out, width=width))
    printed = out.getvalue()
    assert "…" not in printed and max(map(len, printed.splitlines())) <= width
    for row in found.rows:
        if row.metric.in_table and row.section in table.SECTIONS:
            figures = [cells.figure(row.before, row.metric), cells.change(row.change, row.metric)]
            assert any(all(x in line for x in figures) for line in printed.splitlines()), row.label
    one_model = io.StringIO()
    table.show_results(
        results(tmp_path / "base", before), [], Path("out"), Console(file=one_model, width=width)
    )
    assert "…" not in one_model.getvalue() and "[0.000, 0.003]" not in one_model.getvalue()


def test_rows_for_pandas(tmp_path):
    before = {"gsm8k": answers("0000")}
    found, _ = headlines(tmp_path, before, {"gsm8k": answers("1111")})
    rows = [row for row in found.to_rows() if row["metric"] == "exact_match_strict"]
    assert [row["variant"] for row in rows] == ["before", "after", "change"]
    assert [row["estimate"] for row in rows] == [0.0, 1.0, 1.0] and rows[0]["low"] == 0.0
    assert {len(row) for row in found.to_rows()} == {11} and rows[0]["n"] == 4


def programs(passed: int, n: int) -> list[dict]:
    head = {"unique": 1, "unique_passed": 1, "unique_failed": 0}
    return [
        head
        | {
            "id": str(i),
            "cluster": str(i),
            "n": n,
            "c": passed * i % n,
            "samples": [],
            "ended": 1.0,
        }
        for i in range(6)
    ]


def test_pass_at_k_is_drawn_for_both_variants(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plots)")
    variants = {
        name: results(tmp_path / name, {"humaneval": programs(passed, 256), "gsm8k": answers("10")})
        for name, passed in (("base", 3), ("tuned", 40))
    }
    assert list(plots.curve(variants["base"]["humaneval"])) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert plots.pass_at_k(variants, tmp_path).stat().st_size > 10_000
    single = {"base": results(tmp_path / "single", {"humaneval": programs(0, 1)})}
    assert plots.pass_at_k(single, tmp_path / "single") is None


def test_results_json_holds_it_all(tmp_path):
    made = {"hellaswag": choices("1100"), "gsm8k": answers("10")}
    found, _ = both(tmp_path, made, made, {"hellaswag": {"0"}})
    results_json.save(
        found, {"provenance": {"base": {"dequantised_from": None, "source": "x"}}}, tmp_path
    )
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["clean"][0]["n"] == 3 and saved["prediction_flips"]["hellaswag/acc_norm"] == {
        "lost": 0,
        "gained": 0,
        "by_chance": pytest.approx(4 * 0.25 / 3),
        "n": 4,
    }


def test_a_run_s_report_is_read_by_task(tmp_path):
    assert contamination.read(tmp_path) is None
    (tmp_path / contamination.FILE).write_text(
        json.dumps({"tasks": {"gsm8k": {"ngrams": {"3": "one two"}}}})
    )
    assert contamination.read(tmp_path) == {"gsm8k": {"3"}}


def test_learning_against_forgetting_is_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plots)")
    before = {"source_test": answers("0" * 40), "source_nll": nll(3.28), "target_nll": nll(1.7)}
    after = {
        "source_test": answers("1" * 29 + "0" * 11),
        "source_nll": shifted(3.3),
        "target_nll": shifted(1.0),
    }
    found, _ = headlines(tmp_path, before, after)
    x, y = plots._axes(found, plots._dev_scores(tmp_path))
    assert (x.row.task, y.row.task, x.dev_scores) == ("source_test", "source_nll", {})
    assert x.label == "learned\nincrease of held-out problems, exact (points)"
    assert y.label == "forgotten\nincrease of general text, nats/token"
    center, ((low,), (high,)) = x.change
    assert (center, low, high) == pytest.approx((72.5, 15.3, 11.4), abs=0.1)

    scores = {0: (1.7, 3.2), 8: (1.3, 3.2), 16: (1.1, 3.22), 24: (1.0, 3.25)}
    lines = [
        json.dumps({"step": step, "dev/target_nll/nll": learned, "dev/source_nll/nll": forgotten})
        for step, (learned, forgotten) in scores.items()
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    x, y = plots._axes(found, plots._dev_scores(tmp_path))
    assert (x.row.task, y.row.task) == ("target_nll", "source_nll"), (
        "of these there are scores in training"
    )
    assert x.path([0, 8, 24]) == pytest.approx([0, 0.4, 0.7]) and y.path([0, 24]) == pytest.approx(
        [0, 0.05]
    )
    assert plots.learning_forgetting(found, tmp_path).stat().st_size > 10_000

    only_learned, _ = headlines(tmp_path / "one", {"gsm8k": answers("0")}, {"gsm8k": answers("1")})
    assert plots.learning_forgetting(only_learned, tmp_path / "one") is None


def test_without_matplotlib_a_line_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    assert plots.draw(Report([]), {}, tmp_path) == []
    assert (
        capsys.readouterr().out
        == "no figures: matplotlib is not installed (pip install 'lfl_jax[plots]')\n"
    )
