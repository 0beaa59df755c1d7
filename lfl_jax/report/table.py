"""The tables at the end of a run, on a terminal and in files."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lfl_jax.core import files
from lfl_jax.evals.metrics import Section
from lfl_jax.evals.run import Result
from lfl_jax.evals.stats import Estimate
from lfl_jax.report.rows import Report, Row, report

COLOURS = {True: "green", False: "red", None: ""}
LOOK = {
    "title_justify": "left",
    "title_style": "bold",
    "box": None,
    "padding": (0, 2, 0, 0),
    "pad_edge": False,
}


def flags(provenance: dict[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers, from where base and training data
    come."""
    base, data = provenance["base"], provenance.get("data")
    found = []
    if base["dequantised_from"]:
        found.append(
            f"the base's weights were rounded to {base['dequantised_from']}: its scores are not the"
            " original's"
        )
    if base["source"].startswith("random"):
        found.append(f"the base has {base['source']}: its scores mean nothing")
    if data and (data["synthetic"] or data.get("stand_in_for")):
        found.append(f"training source is {data['description']}")
    if start := provenance.get("start"):
        found.append(
            f"training began from the adapter {start['adapter']} ({start['use']}); before is the"
            " base without it"
        )
    return found + provenance.get("warnings", [])


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


SECTIONS: dict[Section, str] = {
    "learning": "Learning",
    "forgetting": "Forgetting",
    "diversity": "Diversity",
}
CLEAN = "Without items that the training source contains"
WIDE = 110  # columns from which intervals of before and after are shown, too


def show(
    report: Report, figures: dict[str, str], flags: list[str], folder: Path, console: Console
) -> None:
    """Print the answer in two lines, then the tables, the run's figures and what must be known
    about them."""
    _show_answer(report, console)
    rows = [row for row in report.rows if row.in_table]
    compared = [row for row in rows if row.change is not None]
    for section, title in SECTIONS.items():
        _show_rows(title, [row for row in compared if row.section == section], console)
    _show_flips([row for row in compared if row.flips], console)
    _show_format([row for row in rows if row.section == "format"], console)
    main = [row for row in rows if row.is_main]
    base_only = {row.task for row in main if row.after is None}
    _show_prompted(
        [row for row in rows if row.task in base_only and row.section != "format"], console
    )
    _show_rows(CLEAN, [row.clean for row in main if row.clean and row.clean.change], console)
    _show_notes(report, console)
    for name, value in figures.items():
        console.print(f"{name:<22}{value}", highlight=False, markup=False)
    _show_end(flags, folder, console)


def _show_answer(report: Report, console: Console) -> None:
    # Learning is a gain, forgetting a loss: what else may come out is said in words.
    _show_headline("learned: ", report.learned, {True: "", False: "less than before, "}, console)
    _show_headline(
        "forgotten: ", report.forgotten, {True: "nothing, it gained, ", False: ""}, console
    )
    console.print()


def _show_headline(
    question: str, row: Row | None, verdicts: dict[bool, str], console: Console
) -> None:
    """What, from, to and the interval of the change, on a line where it fits."""
    if row is None:
        console.print(
            Text.assemble((question, "bold"), "not measured by any task of config.eval.tasks")
        )
        return
    verdict = "undecided, " if row.better is None else verdicts[row.better]
    values = f"{verdict}{row.label}: {_figure(row.before, row)} -> {_figure(row.after, row)},"
    change = f"{_figure(row.change, row, '+', bare=True)} {_interval(row.change, row, '+')}"
    is_short = len(f"{question}{values} {change}") <= console.width
    space = " " if is_short else "\n" + " " * len(question)
    console.print(Text.assemble((question, "bold"), values, space, (change, COLOURS[row.better])))


def _show_notes(report: Report, console: Console) -> None:
    """What the figures mean, in as few lines as they need."""
    where = "" if console.width >= WIDE else " (before, after: summary.txt)"
    notes = [
        f"[low, high]: 95% interval, clustered over items{where}.",
        "change: paired by item, of percentages in points; undecided, or without",
        "colour: its interval covers no change.",
    ]
    shown = {row.metric for row in report.rows if row.in_table}
    if "gold_logprob_norm" in shown:
        notes.append("right: the right choice; log p: of it among the choices, each by its length.")
    if any(row.note for row in report.rows):
        notes.append("* no headroom: the base is within 3 standard errors of chance.")
    for note in notes:
        console.print(note, style="dim", highlight=False, markup=False)


def _table(title: str, *headings: str) -> Any:
    """An empty table: the first column is text, which may wrap; the others are figures, which may
    not."""
    from rich.table import Table

    made = Table(title=title, **LOOK)
    made.add_column("", no_wrap=False, min_width=20)
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def _show_rows(title: str, rows: list[Row], console: Console) -> None:
    if not rows:
        return
    shown, wide = _table(title, "n", "before", "after", "change"), console.width >= WIDE
    for row in rows:
        label = f"{row.label} *" if row.note else row.label
        values = (_cell(row.before, row, interval=wide), _cell(row.after, row, interval=wide))
        change = Text(_cell(row.change, row, "+"), style=COLOURS[row.better])
        shown.add_row(Text(label), str(row.items), *values, change)
    console.print(shown, "")


def _show_format(rows: list[Row], console: Console) -> None:
    """How a task's generated answers look, before -> after."""
    headings = {row.metric: row.label.removeprefix(f"{row.task_label}, ") for row in rows}
    shown = _table("Format", *(_two_lines(heading) for heading in headings.values()))
    for task in dict.fromkeys(row.task for row in rows if row.change):
        of_task = {row.metric: row for row in rows if row.task == task}
        label = next(iter(of_task.values())).task_label
        shown.add_row(Text(label), *(_arrow(of_task.get(name)) for name in headings))
    if shown.row_count:
        console.print(shown, "")


def _two_lines(heading: str) -> str:
    """Broken at the space nearest to its middle."""
    spaces = [i for i, character in enumerate(heading) if character == " "]
    if not spaces:
        return heading
    middle = min(spaces, key=lambda i: abs(i - len(heading) / 2))
    return f"{heading[:middle]}\n{heading[middle + 1 :]}"


def _arrow(row: Row | None) -> str:
    if row is None:
        return ""
    before, after = (
        "none" if e is None else f"{100 * e.mean:.0f}%" for e in (row.before, row.after)
    )
    return f"{before} -> {after}"


def _show_prompted(rows: list[Row], console: Console) -> None:
    """Scores of the base alone, from config.eval.base_tasks: what prompting buys without any
    training.

    With the rows of its groups: a level after worked examples against that level after training is
    the fair comparison.
    """
    if not rows:
        return
    shown = _table("The base, by prompting alone", "n", "score")
    for row in rows:
        shown.add_row(Text(row.label), str(row.items), _cell(row.before, row))
    console.print(shown, "")


def _show_flips(rows: list[Row], console: Console) -> None:
    if not rows:
        return
    headings = (
        "n",
        "correct to\nincorrect",
        "incorrect\nto correct",
        "each by\nchance",
        "lost / gained\nbeyond chance",
    )
    shown = _table("Prediction flips", *headings)
    for row in rows:
        flips = row.flips
        beyond = f"{flips.lost_beyond_chance:.1f} / {flips.gained_beyond_chance:.1f}"
        shown.add_row(
            Text(row.label),
            str(row.items),
            str(flips.lost),
            str(flips.gained),
            f"{flips.by_chance:.1f}",
            beyond,
        )
    console.print(shown, "")


def show_results(
    results: dict[str, Result], flags: list[str], folder: Path, console: Console
) -> None:
    """Print the results of one model, every metric of every task."""
    from rich.table import Table

    shown = Table(**LOOK)
    for heading in ("", "n", "", "95% interval", "chance"):
        shown.add_column(heading, justify="right" if shown.columns else "left", no_wrap=True)
    for task, result in results.items():
        if result.measured:
            shown.add_row(Text(task))
        for metric, measured in result.measured.items():
            e = measured.estimate
            interval = "" if math.isnan(e.low) else f"[{_plain(e.low)}, {_plain(e.high)}]"
            chance = _plain(measured.chance) if measured.chance else ""
            shown.add_row(f"  {metric}", str(e.n), _plain(e.mean), interval, chance)
    console.print(shown, "")
    _show_end(flags, folder, console)


def _plain(x: float) -> str:
    return f"{x:.3f}" if abs(x) < 1000 else f"{x:.4g}"


def _show_end(flags: list[str], folder: Path, console: Console) -> None:
    for flag in flags:
        console.print(f"note: {flag}", style="yellow", highlight=False, markup=False)
    console.print(f"{'written to':<22}{folder}", highlight=False, soft_wrap=True, markup=False)


def _cell(e: Estimate | None, row: Row, sign: str = "", *, interval: bool = True) -> str:
    """A figure and its interval; a change (with a sign) of a fraction is in points, without a
    unit."""
    if e is None:
        return "none"
    figure = _figure(e, row, sign, bare=bool(sign))
    return f"{figure} {_interval(e, row, sign)}".rstrip() if interval else figure


def _figure(e: Estimate, row: Row, sign: str = "", *, bare: bool = False) -> str:
    scale, digits = (100, 1) if row.percent else (1, 3)
    unit = "%" if row.percent and not bare else ""
    return f"{scale * e.mean:{sign}z.{digits}f}{unit}"


def _interval(e: Estimate, row: Row, sign: str = "") -> str:
    if math.isnan(e.low):
        return ""
    scale, digits = (100, 1) if row.percent else (1, 3)
    low, high = (f"{scale * x:{sign}z.{digits}f}" for x in (e.low, e.high))
    return f"[{low}, {high}]"


def save(report: Report, facts: dict[str, Any], folder: Path) -> None:
    """results.json: every row and figure, for programs; `rows` is a list of flat dicts."""
    answer = {"learned": report.learned, "forgotten": report.forgotten}
    content = {
        "answer": {name: row and _answer(row) for name, row in answer.items()},
        "rows": report.to_rows(),
        "prediction_flips": _flips(report),
        "clean": _clean(report),
    }
    _write(folder, content | {"facts": facts, "flags": flags(facts["provenance"])})


def _answer(row: Row) -> dict[str, Any]:
    """Which row is the answer, and whether it is better, worse, or undecided."""
    verdict = {True: "better", False: "worse", None: "undecided"}[row.better]
    return {
        "task": row.task,
        "metric": row.metric,
        "label": row.label,
        "verdict": verdict,
        "note": row.note,
    }


def _flips(report: Report) -> dict[str, dict[str, int]]:
    rows = [row for row in report.rows if row.flips]
    return {
        f"{row.task}/{row.metric}": dataclasses.asdict(row.flips) | {"n": row.items} for row in rows
    }


def _clean(report: Report) -> list[dict[str, Any]]:
    """The rows over the items that the training source does not contain."""
    return Report([row.clean for row in report.rows if row.clean]).to_rows()


def saved_facts(folder: Path) -> dict[str, Any] | None:
    """The figures that an earlier end of this run wrote."""
    try:
        return json.loads((folder / "results.json").read_text("utf-8"))["facts"]
    except (OSError, ValueError, KeyError):
        return None


def save_results(results: dict[str, Result], facts: dict[str, Any], folder: Path) -> None:
    """results.json of one model: every metric of every task."""
    rows = report(results, {}).to_rows()
    about = {
        task: {"settings": result.settings, "plan": result.plan} for task, result in results.items()
    }
    content = {
        "rows": rows,
        "tasks": about,
        "facts": facts,
        "flags": flags(facts["provenance"]),
    }
    _write(folder, content)


def _write(folder: Path, content: dict[str, Any]) -> None:
    files.write_json(
        folder / "results.json", json.loads(json.dumps(content), parse_constant=lambda _: None)
    )
