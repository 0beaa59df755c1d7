"""The table at the end of a run: what was learned, what was forgotten, before -> after, with items and errors."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from lfl_jax.evals import forgetting, stats
from lfl_jax.evals.records import read
from lfl_jax.evals.run import Result
from lfl_jax.io import workdir


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
    "humaneval_lm_eval": "HumanEval (lm-eval), pass@1",
    "mbpp": "MBPP, pass@1",
    "mbpp_bigcode": "MBPP (bigcode), pass@1",
}
LEARNING = (
    Line("source_test", "exact_match", "held-out problems, exact", "exact_strict", percent=True),
    Line("source_test", "exact_match_test_seen", "  templates seen", "exact_strict", percent=True),
    Line("source_test", "exact_match_test_unseen", "  templates not seen", "exact_strict", percent=True),
    Line("gsm8k", "exact_match_strict", "GSM8K, strict match", "exact_strict", percent=True),
    Line("gsm8k", "exact_match_flexible", "GSM8K, flexible match", "exact_flexible", percent=True),
    Line("gsm8k_cot", "exact_match_strict", "GSM8K CoT, strict match", "exact_strict", percent=True),
    Line("gsm8k_cot_zeroshot", "exact_match_flexible", "GSM8K step by step, flexible", "exact_flexible", percent=True),
    Line("math", "exact_match_boxed", "MATH, boxed answer", "exact_boxed", percent=True),
    Line("math_minerva", "exact_match", "MATH after 4 shots", "exact", percent=True),
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
SECTIONS = {"Learning": LEARNING, "Forgetting": FORGETTING}
SCORES = {"mean of three, acc": forgetting.HARNESS, "Gauntlet mean of three, acc": forgetting.GAUNTLET}
LOOK = {"title_justify": "left", "title_style": "bold", "box": None, "padding": (0, 2, 0, 0), "pad_edge": False}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line with its numbers; `change` is paired over items, `better` None when 2 standard errors cover no change.

    flips: of an accuracy that may be forgotten, the items it lost and gained.
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


def rows(before: dict[str, Result], after: dict[str, Result]) -> list[Row]:
    """Every line whose task was evaluated both times, then the forgetting scores whose three tasks were."""
    lines = [
        _row(section, line, before[line.task], after[line.task])
        for section, lines in SECTIONS.items()
        for line in lines
        if line.task in before and line.task in after and line.metric in after[line.task].metrics
    ]
    both = before.keys() & after.keys()
    return lines + [_score(*score, before, after) for score in SCORES.items() if both >= score[1].keys()]


def _row(section: str, line: Line, before: Result, after: Result) -> Row:
    first, last = before.metrics[line.metric], after.metrics[line.metric]
    group = line.metric.removeprefix("exact_match_") if line.label.startswith("  ") else None
    records = [_records(r, group) for r in (before, after)]
    change = stats.difference(*records, line.field, line.weight)
    at_chance = section == "Forgetting" and line.percent and before.chance is not None
    note = "no headroom" if at_chance and stats.near_chance(first, before.chance) else ""
    flips = forgetting.flips(*records, line.field) if section == "Forgetting" and line.percent else None
    better = _better(change, line.higher)
    return Row(section, line.label, last.n, first, last, change, better, line.percent, note, flips)


def _score(label: str, accuracies: dict[str, str], before: dict[str, Result], after: dict[str, Result]) -> Row:
    records = [{task: _records(results[task], None) for task in accuracies} for results in (before, after)]
    found = forgetting.measure(*records, accuracies)
    note = "no headroom" if stats.near_chance(found.before, found.chance) else ""
    change, n = found.change, found.after.n
    return Row("Forgetting", label, n, found.before, found.after, change, _better(change), True, note, found.flips)


def _better(change: stats.Estimate, higher: bool = True) -> bool | None:
    sure = not math.isnan(change.se) and abs(change.mean) > 2 * change.se
    return (change.mean > 0) == higher if sure else None


def _records(result: Result, group: str | None) -> list[dict[str, Any]]:
    found = read(Path(result.records))[1]
    return found if group is None else [record for record in found if record["group"] == group]


def flags(provenance: dict[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers, from where base and training data come."""
    base, data = provenance["base"], provenance.get("data")
    found = []
    if base["dequantised_from"]:
        found.append(
            f"the base's weights were rounded to {base['dequantised_from']}: its scores are not the original's"
        )
    if base["source"].startswith("random"):
        found.append(f"the base has {base['source']}: its scores mean nothing")
    if data and (data["synthetic"] or data.get("stand_in_for")):
        found.append(f"training source is {data['description']}")
    return found


def figures(facts: dict[str, Any]) -> dict[str, str]:
    """Figures of the run itself, ready to read."""
    rate, padding = facts["tokens_per_s"], facts["trainable_stored"] - facts["trainable"]
    device = facts["peak_device_bytes"]
    return {
        "trainable parameters": f"{facts['trainable']:,}"
        + (f" ({padding:,} more stored as padding)" if padding else ""),
        "steps": f"{facts['steps']:,}",
        "tokens/s in training": "not timed" if rate is None else f"{rate:,.0f}",
        "peak memory": f"{facts['peak_host_bytes'] / 2**30:.2f} GiB"
        + (f" host, {device / 2**30:.2f} GiB device" if device else ""),
        "wall time": f"{int(facts['wall_seconds']) // 60} min {int(facts['wall_seconds']) % 60} s",
        "device": facts["device"],
    }


def show(table: list[Row], figures: dict[str, str], flags: list[str], folder: Path, console: Any) -> None:
    """Print the table, the run's figures and what must be known about them."""
    from rich.table import Table

    for section in SECTIONS:
        chosen = [row for row in table if row.section == section]
        if not chosen:
            continue
        shown = Table(title=section, **LOOK)
        for heading in ("", "n", "before", "after", "change"):
            shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for row in chosen:
            colour = {True: "[green]", False: "[red]", None: ""}[row.better]
            label, change = f"{row.label} *" if row.note else row.label, _cell(row.change, row, "+")
            shown.add_row(label, str(row.items), _cell(row.before, row), _cell(row.after, row), colour + change)
        console.print(shown)
    if any(row.label in SCORES for row in table):
        _show_flips(table, console)
    console.print("n items; ± one standard error, clustered; a change in colour is beyond two.", style="dim")
    console.print("log p(right): of the right choice, normalised over the choices of its question.", style="dim")
    if any(row.note for row in table):
        console.print("* no headroom: the base is within 3 standard errors of chance.", style="dim")
    for name, value in figures.items():
        console.print(f"{name:<22}{value}", highlight=False)
    _show_end(flags, folder, console)


def _show_flips(table: list[Row], console: Any) -> None:
    from rich.table import Table

    shown = Table(title="Items that changed sides", **LOOK)
    for heading in ("", "n", "right to wrong", "wrong to right"):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in table:
        if row.flips:
            shown.add_row(row.label, str(row.items), str(row.flips.lost), str(row.flips.gained))
    console.print(shown)


def show_results(results: dict[str, Result], flags: list[str], folder: Path, console: Any) -> None:
    """Print the results of one model, every metric of every task."""
    from rich.table import Table

    shown = Table(**LOOK)
    for heading in ("task", "metric", "n", "", "chance"):
        shown.add_column(heading, justify="right" if heading in ("n", "") else "left", no_wrap=True)
    for task, result in results.items():
        chance = "" if result.chance is None else f"{result.chance:.3f}"
        for metric, e in result.metrics.items():
            error = "" if math.isnan(e.se) else f" ±{e.se:.3f}"
            about = chance if metric.startswith(("acc", "exact")) else ""
            shown.add_row(task, metric, str(e.n), f"{e.mean:.3f}{error}", about)
    console.print(shown)
    _show_end(flags, folder, console)


def _show_end(flags: list[str], folder: Path, console: Any) -> None:
    for flag in flags:
        console.print(f"note: {flag}", style="yellow", highlight=False)
    console.print(f"{'written to':<22}{folder}", highlight=False, soft_wrap=True)


def _cell(e: stats.Estimate, row: Row, sign: str = "") -> str:
    scale, digits = (100, 1) if row.percent else (1, 3)
    error = "" if math.isnan(e.se) else f" ±{scale * e.se:.{digits}f}"
    return f"{scale * e.mean:{sign}.{digits}f}{'%' if row.percent else ''}{error}"


def save(table: list[Row], facts: dict[str, Any], folder: Path) -> None:
    """results.json: every row and figure, for programs."""
    lines = [dataclasses.asdict(row) | {"label": row.label.strip()} for row in table]
    _write(folder, {"rows": lines, "facts": facts, "flags": flags(facts["provenance"])})


def saved_facts(folder: Path) -> dict[str, Any] | None:
    """The figures that an earlier end of this run wrote."""
    try:
        return json.loads((folder / "results.json").read_text("utf-8"))["facts"]
    except (OSError, ValueError, KeyError):
        return None


def save_results(results: dict[str, Result], facts: dict[str, Any], folder: Path) -> None:
    """results.json of one model: every metric of every task."""
    found = {task: dataclasses.asdict(result) for task, result in results.items()}
    _write(folder, {"results": found, "facts": facts, "flags": flags(facts["provenance"])})


def _write(folder: Path, content: dict[str, Any]) -> None:
    workdir.write_json(folder / "results.json", json.loads(json.dumps(content), parse_constant=lambda _: None))
