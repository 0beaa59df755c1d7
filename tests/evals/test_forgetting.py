"""Forgetting as one number, computed by hand: the mean of three accuracies, and flips."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lfl_jax.analysis import forgetting
from lfl_jax.analysis.forgetting import Flips
from lfl_jax.errors import UserError
from lfl_jax.evals import stats
from lfl_jax.evals.records import RecordFile
from lfl_jax.evals.run import Result
from lfl_jax.evals.tasks import TASKS
from lfl_jax.report import table
from lfl_jax.report.rows import Row, report


def choices(right: str, n_choices: int = 4, logprob: float = -1.0) -> list[dict]:
    """A record for each digit: 1 right, 0 wrong."""
    head = {
        "gold_logprob": logprob,
        "gold_logprob_norm": logprob,
        "ll": [-1.0] * n_choices,
        "gold": 0,
    }
    head |= {"bytes": [4] * n_choices}
    return [
        head | {"id": str(i), "cluster": str(i), "acc": float(c), "acc_norm": float(c)}
        for i, c in enumerate(right)
    ]


def text(nll: float) -> list[dict]:
    return [
        {
            "id": str(i),
            "cluster": str(i),
            "nll": nll * (i + 2),
            "tokens": i + 2,
            "bytes": 9,
            "words": 3,
        }
        for i in range(3)
    ]


BEFORE = {
    "hellaswag": choices("11110000", logprob=-1.0),
    "arc_challenge": choices("1010"),
    "winogrande": choices("11", n_choices=2),
    "source_nll": text(2.0),
}
AFTER = {
    "hellaswag": choices("00110001", logprob=-1.5),
    "arc_challenge": choices("1010", logprob=-0.7),
    "winogrande": choices("01", n_choices=2),
    "source_nll": text(2.25),
}


def measured(made: dict) -> dict:
    return {task: TASKS[task].measure(of_task) for task, of_task in made.items()}


def test_the_score_is_the_plain_mean_of_three_accuracies():
    before, after = measured(BEFORE), measured(AFTER)
    found = forgetting.measure(before, after)
    assert found.before.mean == pytest.approx((4 / 8 + 2 / 4 + 2 / 2) / 3)
    assert found.after.mean == pytest.approx((3 / 8 + 2 / 4 + 1 / 2) / 3)
    assert found.change.mean == pytest.approx((-1 / 8 + 0 - 1 / 2) / 3)
    pairs = [(before[t][m].column, after[t][m].column) for t, m in forgetting.HARNESS.items()]
    parts = [stats.difference(*pair) for pair in pairs]
    assert found.change.se == pytest.approx(math.sqrt(sum(e.se**2 for e in parts)) / 3)
    assert (found.change.n, found.change.clusters) == (14, 14)
    assert counts(found.flips) == (3, 1)
    assert found.chance == pytest.approx((1 / 4 + 1 / 4 + 1 / 2) / 3)


def test_the_same_records_have_forgotten_exactly_nothing():
    found = forgetting.measure(measured(BEFORE), measured(BEFORE))
    assert (found.change.mean, found.change.se, counts(found.flips)) == (0.0, 0.0, (0, 0))


def counts(found: Flips) -> tuple[int, int]:
    return found.lost, found.gained


def flips(before: list[dict], after: list[dict]) -> Flips:
    first, last = (TASKS["winogrande"].measure(made)["acc"] for made in (before, after))
    return forgetting.flips(first, last)


def test_flips_pair_items_whatever_their_order():
    assert counts(flips(choices("1100"), choices("0110")[::-1])) == (1, 1)


def test_random_answers_flip_by_chance_alone():
    """Of two choices, half of the items: a quarter each way; of four, 3/16 (arXiv 2510.17776)."""
    rng = np.random.default_rng(0)
    for task, k in (("winogrande", 2), ("hellaswag", 4)):
        answers = rng.integers(k, size=(2, 4000)) == 0
        before, after = (
            choices("".join(map(str, right.astype(int))), n_choices=k) for right in answers
        )
        found = forgetting.flips(*(TASKS[task].measure(made)["acc"] for made in (before, after)))
        expected = 4000 * (1 / k) * (1 - 1 / k)
        assert found.by_chance == pytest.approx(expected, rel=0.05)
        assert found.lost == pytest.approx(expected, rel=0.1)
        assert found.lost_beyond_chance < 0.1 * expected
    assert (
        Flips(9, 1, 2.5).lost_beyond_chance == 6.5 and Flips(9, 1, 2.5).gained_beyond_chance == 0.0
    )


def test_other_accuracies_than_the_harness_s():
    before, after = (
        {f"{task}_gauntlet": found for task, found in results.items() if task != "source_nll"}
        for results in (BEFORE, AFTER)
    )
    before, after = measured(before), measured(after)
    assert forgetting.measure(before, after, forgetting.SCORES[1]).flips.lost == 3
    with pytest.raises(UserError, match="not evaluated: hellaswag, arc_challenge, winogrande"):
        forgetting.measure(before, after)


def test_other_items_are_refused():
    with pytest.raises(UserError, match="not of the same items"):
        flips(choices("10"), choices("101"))
    with pytest.raises(UserError, match="not of the same items"):
        forgetting.measure(
            measured(BEFORE), measured(AFTER | {"winogrande": choices("011", n_choices=2)})
        )


def results(folder: Path, made: dict) -> dict[str, Result]:
    return {
        task: Result.of(TASKS[task], RecordFile(folder / f"{task}.jsonl", {}, {}, of_task))
        for task, of_task in made.items()
    }


def shown(before: dict, after: dict, folder: Path) -> tuple[list[Row], str]:
    found = report(results(folder / "before", before), results(folder / "after", after))
    out = io.StringIO()
    table.show(found, {}, [], folder, Console(file=out, width=80))
    return found.rows, out.getvalue()


def test_the_table_ends_with_the_score_and_prediction_flips(tmp_path):
    rows, printed = shown(BEFORE, AFTER, tmp_path)
    score = rows[-1]
    assert (score.label, score.items) == ("mean of three, acc", 14)
    assert score.note == "no headroom"  # 0.67 ± 0.12 against 1/3
    assert (score.before.mean, score.flips) == (pytest.approx(2 / 3), score.flips)
    assert {row.label: counts(row.flips) for row in rows if row.flips and row.metric.in_table} == {
        "HellaSwag, acc_norm": (2, 1),
        "ARC-Challenge, acc_norm": (0, 0),
        "WinoGrande, acc": (1, 0),
        "mean of three, acc": (3, 1),
    }
    lines = [line.split() for line in printed.splitlines()]
    (line,) = [line for line in lines if line[:6] == ["mean", "of", "three,", "acc", "*", "14"]]
    assert line[6:9] == ["66.7%", "45.8%", "-20.8"] and line[9].startswith("[-")
    assert any(line[:7] == ["mean", "of", "three,", "acc", "14", "3", "1"] for line in lines)
    assert "…" not in printed


@pytest.mark.parametrize(("right", "note"), [("0100", "no headroom"), ("1111", "")])
def test_a_score_near_chance_has_no_headroom(tmp_path, right, note):
    """WinoGrande is at chance both times; headroom is a property of the mean."""
    made = {task: choices(right) for task in forgetting.HARNESS} | {
        "winogrande": choices("1001", n_choices=2)
    }
    rows, printed = shown(made, made, tmp_path)
    assert rows[-1].note == note
    assert ("mean of three, acc *" in printed) == bool(note)


def test_no_score_of_two_tasks(tmp_path):
    two = {task: BEFORE[task] for task in ("hellaswag", "winogrande", "source_nll")}
    rows, printed = shown(two, {task: AFTER[task] for task in two}, tmp_path)
    assert "mean of three" not in printed
    assert "Prediction flips" in printed
    assert sum(row.metric.in_table for row in rows) == 7
