"""What a run came to, as rows: learned and forgotten, before -> after, paired over items, with errors."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from lfl_jax.evals import forgetting, stats
from lfl_jax.evals.contamination import Overlapping
from lfl_jax.evals.records import read
from lfl_jax.evals.run import Result


@dataclasses.dataclass(frozen=True)
class Line:
    """One metric of one task: how it reads, the record field behind it, and whether more is better."""

    task: str
    metric: str
    label: str
    field: str
    weight: str | None = None
    higher: bool = True
    percent: bool = False


CODE = {
    "humaneval": "HumanEval, pass@1",
    "humaneval_trained": "HumanEval asked as trained, pass@1",
    "humaneval_lm_eval": "HumanEval (lm-eval), pass@1",
    "mbpp": "MBPP, pass@1",
    "mbpp_bigcode": "MBPP (bigcode), pass@1",
}
LEARNING = (
    Line("source_test", "exact_match", "held-out problems, exact", "exact_strict", percent=True),
    Line("source_test", "exact_match_level_1", "  level 1, one step", "exact_strict", percent=True),
    Line("source_test", "exact_match_level_2", "  level 2, two steps", "exact_strict", percent=True),
    Line("source_test", "exact_match_level_3", "  level 3, up to six steps", "exact_strict", percent=True),
    Line("source_test", "exact_match_test_seen", "  templates seen", "exact_strict", percent=True),
    Line("source_test", "exact_match_test_unseen", "  templates not seen", "exact_strict", percent=True),
    Line("source_test_plain", "exact_match", "held-out problems, plain prompt", "exact_strict", percent=True),
    Line("gsm8k", "exact_match_strict", "GSM8K, strict match", "exact_strict", percent=True),
    Line("gsm8k", "exact_match_flexible", "GSM8K, flexible match", "exact_flexible", percent=True),
    Line("gsm8k_trained", "exact_match_strict", "GSM8K asked as trained, strict", "exact_strict", percent=True),
    Line("gsm8k_cot", "exact_match_strict", "GSM8K CoT, strict match", "exact_strict", percent=True),
    Line("gsm8k_cot_zeroshot", "exact_match_flexible", "GSM8K step by step, flexible", "exact_flexible", percent=True),
    Line("math", "exact_match_boxed", "MATH, boxed answer", "exact_boxed", percent=True),
    Line("math_minerva", "exact_match", "MATH after 4 shots", "exact", percent=True),
    Line("math_minerva_lm_eval", "exact_match", "MATH after 4 shots, sympy", "exact_formula", percent=True),
    Line("math_minerva_lm_eval", "math_verify", "MATH after 4 shots, math_verify", "math_verify", percent=True),
    Line("math_minerva_lm_eval", "exact_match_string", "MATH after 4 shots, strings", "exact", percent=True),
    *(Line(task, "pass@1", label, "rate", percent=True) for task, label in CODE.items()),
    Line("uuid_recall", "acc_char", "UUID digits recalled", "acc_char", percent=True),
    Line("target_nll", "nll", "held-out targets, nats/token", "nll", weight="tokens", higher=False),
)
FORGETTING = (
    Line("hellaswag", "acc_norm", "HellaSwag, acc_norm", "acc_norm", percent=True),
    Line("hellaswag", "gold_logprob", "HellaSwag, log p(right)", "gold_logprob"),
    Line("arc_challenge", "acc_norm", "ARC-Challenge, acc_norm", "acc_norm", percent=True),
    Line("arc_challenge", "gold_logprob", "ARC-Challenge, log p(right)", "gold_logprob"),
    Line("winogrande", "acc", "WinoGrande, acc", "acc", percent=True),
    Line("winogrande", "gold_logprob", "WinoGrande, log p(right)", "gold_logprob"),
    Line("hellaswag_gauntlet", "acc", "Gauntlet HellaSwag, acc", "acc", percent=True),
    Line("hellaswag_gauntlet", "gold_logprob", "Gauntlet HellaSwag, log p", "gold_logprob"),
    Line("arc_challenge_gauntlet", "acc", "Gauntlet ARC-C, acc", "acc", percent=True),
    Line("arc_challenge_gauntlet", "gold_logprob", "Gauntlet ARC-C, log p", "gold_logprob"),
    Line("winogrande_gauntlet", "acc", "Gauntlet WinoGrande, acc", "acc", percent=True),
    Line("winogrande_gauntlet", "gold_logprob", "Gauntlet WinoGrande, log p", "gold_logprob"),
    Line("mmlu", "acc", "MMLU, acc", "acc", percent=True),
    Line("mmlu_5shot", "acc", "MMLU 5-shot, acc", "acc", percent=True),
    Line("source_nll", "nll", "general text, nats/token", "nll", weight="tokens", higher=False),
)
LABELS = {line.task: line.label for line in reversed((*LEARNING, *FORGETTING))} | {
    "source_test_shots": "held-out problems, after worked examples",
}
SECTIONS = {"Learning": LEARNING, "Forgetting": FORGETTING}
SCORES = {"mean of three, acc": forgetting.HARNESS, "Gauntlet mean of three, acc": forgetting.GAUNTLET}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line with its numbers; `change` is paired over items, `better` None when 2 standard errors cover no change.

    flips: of an accuracy that may be forgotten, the items it lost and gained. clean: the row once more over the items
    that the training source does not contain, None where that are all or none.
    """

    section: str
    label: str
    items: int
    before: stats.Estimate
    after: stats.Estimate
    change: stats.Estimate
    better: bool | None
    percent: bool
    note: str
    flips: forgetting.Flips | None = None
    clean: "Row | None" = None


@dataclasses.dataclass(frozen=True)
class Form:
    """What of a task's generated answers is due to form, before and after, as fractions: answers in the form asked for,
    right ones among those (None where there are none), and answers that the model ended itself."""

    task: str
    formatted: tuple[float, float]
    right: tuple[float | None, float | None]
    ended: tuple[float, float]


Results = dict[str, Result]
Records = dict[str, list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Prompted:
    """A score of the base alone, from config.eval.base_tasks: what prompting buys without any training."""

    label: str
    items: int
    score: stats.Estimate


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is said of the two evaluations of a run."""

    rows: list[Row]
    forms: list[Form]
    prompted: list[Prompted]


def report(before: Results, after: Results, overlapping: Overlapping | None = None) -> Report:
    """The report of a base (`before`) and what was trained on it (`after`)."""
    prompted = [
        Prompted(LABELS.get(task, task), result.items, next(iter(result.metrics.values())))
        for task, result in before.items()
        if task not in after
    ]
    return Report(rows(before, after, overlapping), forms(before, after), prompted)


def rows(before: Results, after: Results, overlapping: Overlapping | None = None) -> list[Row]:
    """Every line whose task was evaluated both times, then the forgetting scores whose three tasks were.

    overlapping: what the training source contains, from `contamination.read`.
    """
    first, last = ({task: _records(result) for task, result in results.items()} for results in (before, after))
    found = _rows(before, after, first, last)
    if not overlapping or not any(overlapping.values()):
        return found
    first, last = ({task: _without(x, overlapping.get(task)) for task, x in each.items()} for each in (first, last))
    fewer = {row.label: row for row in _rows(before, after, first, last)}
    return [
        dataclasses.replace(row, clean=clean) if (clean := fewer.get(row.label)) and clean.items < row.items else row
        for row in found
    ]


def _rows(before: Results, after: Results, first: Records, last: Records) -> list[Row]:
    lines = [
        _row(section, line, before[line.task].chance, first[line.task], last[line.task])
        for section, lines in SECTIONS.items()
        for line in lines
        if line.task in before and line.task in after and line.metric in after[line.task].metrics
    ]
    scores = [
        _score(label, accuracies, first, last)
        for label, accuracies in SCORES.items()
        if all(first.get(task) and last.get(task) for task in accuracies)
    ]
    return [row for row in lines if row is not None] + scores


def _row(section: str, line: Line, chance: float | None, before: list[dict], after: list[dict]) -> Row | None:
    """The line over these records; None when there are none."""
    if line.label.startswith("  "):
        group = line.metric.removeprefix("exact_match_")
        before, after = ([record for record in records if group in record["groups"]] for records in (before, after))
    if not after:
        return None
    first, last = (stats.over(records, line.field, line.weight) for records in (before, after))
    change = stats.difference(before, after, line.field, line.weight)
    accuracy = section == "Forgetting" and line.percent
    note = "no headroom" if accuracy and chance is not None and stats.near_chance(first, chance) else ""
    flips = forgetting.flips(before, after, line.field) if accuracy else None
    better = _better(change, line.higher)
    return Row(section, line.label, last.n, first, last, change, better, line.percent, note, flips)


def _score(label: str, accuracies: dict[str, str], before: Records, after: Records) -> Row:
    found = forgetting.measure(before, after, accuracies)
    note = "no headroom" if stats.near_chance(found.before, found.chance) else ""
    change, n = found.change, found.after.n
    return Row("Forgetting", label, n, found.before, found.after, change, _better(change), True, note, found.flips)


def forms(before: Results, after: Results) -> list[Form]:
    """The split into form and content of every task that was evaluated both times and has one."""
    pairs = [(task, before[task].derived, after[task].derived) for task in after if task in before]
    return [
        Form(task, *((first.get(name), last.get(name)) for name in ("formatted", "right_given_format", "ended")))
        for task, first, last in pairs
        if "formatted" in first and "formatted" in last
    ]


def _better(change: stats.Estimate, higher: bool = True) -> bool | None:
    sure = not math.isnan(change.se) and abs(change.mean) > 2 * change.se
    return (change.mean > 0) == higher if sure else None


def _records(result: Result) -> list[dict[str, Any]]:
    return read(Path(result.records))[1]


def _without(records: list[dict[str, Any]], ids: set[str] | None) -> list[dict[str, Any]]:
    return [record for record in records if not ids or record["id"] not in ids]
