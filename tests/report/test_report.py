"""What a run says of its results beside the scores: contaminated items, form and content, prompting alone."""

import io
import json

import pytest
from rich.console import Console

from lfl_jax.evals import contamination, records
from lfl_jax.evals.run import read
from lfl_jax.evals.tasks import TASKS
from lfl_jax.report import plots, table
from lfl_jax.report.rows import report


def answers(right: str, ended: float = 1.0) -> list[dict]:
    """A generated answer for each character: 1 right, 0 wrong, x in no form."""
    made = []
    for i, mark in enumerate(right):
        found = {"strict": "[invalid]" if mark == "x" else "7", "exact_strict": float(mark == "1")}
        made.append(found | {"id": str(i), "cluster": str(i), "groups": [], "exact_flexible": 0.0, "ended": ended})
    return made


def choices(right: str) -> list[dict]:
    head = {"gold_logprob": -1.0, "gold_logprob_norm": -1.0, "ll": [0.0] * 4}
    return [
        head | {"id": str(i), "cluster": str(i), "acc": float(c), "acc_norm": float(c)} for i, c in enumerate(right)
    ]


def results(folder, made):
    for task, found in made.items():
        records.start(folder / f"{task}.jsonl", {"task": task}, {})
        records.append(folder / f"{task}.jsonl", found)
    return {task: read(folder / f"{task}.jsonl", TASKS[task]) for task in made}


def both(folder, before, after, overlapping=None):
    found = report(results(folder / "before", before), results(folder / "after", after), overlapping)
    out = io.StringIO()
    table.show(found, {}, [], folder, Console(file=out, width=100))
    return found, out.getvalue()


def test_scores_without_the_items_that_the_source_contains(tmp_path):
    overlapping = {"hellaswag": {"0", "3", "9"}, "gsm8k": set()}
    made = {"hellaswag": choices("1100"), "gsm8k": answers("10")}
    found, printed = both(tmp_path, made, {"hellaswag": choices("1001"), "gsm8k": answers("11")}, overlapping)
    rows = {row.label: row for row in found.rows if row.in_table}
    clean = rows["HellaSwag, acc_norm"].clean
    assert (clean.items, clean.before.mean, clean.after.mean, clean.change.mean) == (2, 0.5, 0.0, -0.5)
    assert (clean.flips.lost, clean.flips.gained) == (1, 0)
    assert rows["GSM8K, strict match"].clean is None, "no item of it is in the source"
    assert "Without items that the training source contains" in printed
    assert printed.count("GSM8K, strict match") == 1


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
    rows = {row.metric: row for row in found.rows}
    assert (rows["format_compliance"].before.mean, rows["format_compliance"].after.mean) == (0.0, 0.75)
    accuracy = rows["accuracy_given_valid_format"]
    assert accuracy.before is None and accuracy.change is None and accuracy.after.mean == pytest.approx(2 / 3)
    (line,) = [line for line in printed.splitlines() if "->" in line]
    assert line.split() == ["GSM8K", "0%", "->", "75%", "none", "->", "67%", "0%", "->", "100%"]


def test_what_the_base_does_by_prompting_alone(tmp_path):
    found, printed = both(
        tmp_path, {"gsm8k": answers("00"), "source_test_shots": answers("0011")}, {"gsm8k": answers("11")}
    )
    prompted = next(row for row in found.rows if row.task == "source_test_shots")
    assert (prompted.items, prompted.before.mean, prompted.after) == (4, 0.5, None)
    assert "The base, by prompting alone" in printed and "50.0% ±28.9" in printed


def programs(passed: int, n: int) -> list[dict]:
    head = {"unique": 1, "unique_passed": 1, "unique_failed": 0}
    return [
        head | {"id": str(i), "cluster": str(i), "n": n, "c": passed * i % n, "samples": [], "ended": 1.0}
        for i in range(6)
    ]


def test_pass_at_k_is_drawn_for_both_sides(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plots)")
    sides = {
        side: results(tmp_path / side, {"humaneval": programs(passed, 256), "gsm8k": answers("10")})
        for side, passed in (("base", 3), ("tuned", 40))
    }
    assert list(plots.curve(sides["base"]["humaneval"])) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert plots.pass_at_k(sides, tmp_path).stat().st_size > 10_000
    single = {"base": results(tmp_path / "single", {"humaneval": programs(0, 1)})}
    assert plots.pass_at_k(single, tmp_path / "single") is None


def test_results_json_holds_it_all(tmp_path):
    made = {"hellaswag": choices("1100"), "gsm8k": answers("10")}
    found, _ = both(tmp_path, made, made, {"hellaswag": {"0"}})
    table.save(found, {"provenance": {"base": {"dequantised_from": None, "source": "x"}}}, tmp_path)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["clean"][0]["n"] == 3 and saved["prediction_flips"]["hellaswag/acc_norm"] == {
        "lost": 0,
        "gained": 0,
        "n": 4,
    }


def test_a_run_s_report_is_read_by_task(tmp_path):
    assert contamination.read(tmp_path) is None
    (tmp_path / contamination.FILE).write_text(json.dumps({"tasks": {"gsm8k": {"ngrams": {"3": "one two"}}}}))
    assert contamination.read(tmp_path) == {"gsm8k": {"3"}}
