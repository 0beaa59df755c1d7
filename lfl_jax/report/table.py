"""The tables at the end of a run, on a terminal and in files."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from lfl_jax.evals import stats
from lfl_jax.evals.metrics import Section
from lfl_jax.evals.run import Result
from lfl_jax.io import workdir
from lfl_jax.report.rows import Report, Row, report

LOOK = {"title_justify": "left", "title_style": "bold", "box": None, "padding": (0, 2, 0, 0), "pad_edge": False}


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


SECTIONS: dict[Section, str] = {"learning": "Learning", "forgetting": "Forgetting", "diversity": "Diversity"}
CLEAN = "Without items that the training source contains"


def show(report: Report, figures: dict[str, str], flags: list[str], folder: Path, console: Any) -> None:
    """Print the tables, the run's figures and what must be known about them."""
    rows = [row for row in report.rows if row.in_table]
    compared = [row for row in rows if row.change is not None]
    for section, title in SECTIONS.items():
        _show_rows(title, [row for row in compared if row.section == section], console)
    _show_flips([row for row in compared if row.flips], console)
    _show_format([row for row in report.rows if row.section == "format" and row.in_table], console)
    _show_prompted([row for row in rows if row.after is None and row.section in SECTIONS], console)
    _show_rows(CLEAN, [row.clean for row in compared if row.clean and row.section in SECTIONS], console)
    console.print("n items; ± one standard error, clustered; a change in colour is beyond two.", style="dim")
    console.print("log p(right): of the right choice, normalised over the choices of its question.", style="dim")
    if any(row.note for row in rows):
        console.print("* no headroom: the base is within 3 standard errors of chance.", style="dim")
    for name, value in figures.items():
        console.print(f"{name:<22}{value}", highlight=False)
    _show_end(flags, folder, console)


def _table(title: str, *headings: str) -> Any:
    """An empty table: the first column is text, the others are figures."""
    from rich.table import Table

    made = Table(title=title, **LOOK)
    for heading in ("", *headings):
        made.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    return made


def _show_rows(title: str, rows: list[Row], console: Any) -> None:
    if not rows:
        return
    shown = _table(title, "n", "before", "after", "change")
    for row in rows:
        colour = {True: "[green]", False: "[red]", None: ""}[row.better]
        label, change = f"{row.label} *" if row.note else row.label, _cell(row.change, row, "+")
        shown.add_row(label, str(row.items), _cell(row.before, row), _cell(row.after, row), colour + change)
    console.print(shown)


def _show_format(rows: list[Row], console: Any) -> None:
    """How a task's generated answers look, before -> after."""
    if not any(row.metric == "format_compliance" and row.change for row in rows):
        return
    names = {row.metric: row.label.removeprefix(f"{row.task_label}, ") for row in rows}
    shown = _table("Format", *names.values())
    for task in dict.fromkeys(row.task for row in rows):
        of_task = {row.metric: row for row in rows if row.task == task}
        if any(row.after for row in of_task.values()):
            label = next(iter(of_task.values())).task_label
            shown.add_row(label, *(_arrow(of_task.get(name)) for name in names))
    console.print(shown)


def _arrow(row: Row | None) -> str:
    if row is None:
        return ""
    before, after = ("none" if e is None else f"{100 * e.mean:.0f}%" for e in (row.before, row.after))
    return f"{before} -> {after}"


def _show_prompted(rows: list[Row], console: Any) -> None:
    """Scores of the base alone, from config.eval.base_tasks: what prompting buys without any training."""
    if not rows:
        return
    shown = _table("The base, by prompting alone", "n", "score")
    for row in rows:
        shown.add_row(row.label, str(row.items), _cell(row.before, row))
    console.print(shown)


def _show_flips(rows: list[Row], console: Any) -> None:
    if not rows:
        return
    shown = _table("Prediction flips", "n", "correct to incorrect", "incorrect to correct")
    for row in rows:
        shown.add_row(row.label, str(row.items), str(row.flips.lost), str(row.flips.gained))
    console.print(shown)


def show_results(results: dict[str, Result], flags: list[str], folder: Path, console: Any) -> None:
    """Print the results of one model, every metric of every task."""
    from rich.table import Table

    shown = Table(**LOOK)
    for heading in ("task", "metric", "n", "", "chance"):
        shown.add_column(heading, justify="right" if heading in ("n", "") else "left", no_wrap=True)
    for task, result in results.items():
        for metric, measured in result.measured.items():
            e = measured.estimate
            error = "" if math.isnan(e.se) else f" ±{e.se:.3f}"
            chance = f"{measured.chance:.3f}" if measured.chance else ""
            shown.add_row(task, metric, str(e.n), f"{e.mean:.3f}{error}", chance)
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


def save(report: Report, facts: dict[str, Any], folder: Path) -> None:
    """results.json: every row and figure, for programs; `rows` is a list of flat dicts."""
    about = {"prediction_flips": _flips(report), "clean": _clean(report)}
    _write(folder, {"rows": report.to_rows()} | about | {"facts": facts, "flags": flags(facts["provenance"])})


def _flips(report: Report) -> dict[str, dict[str, int]]:
    rows = [row for row in report.rows if row.flips]
    return {f"{row.task}/{row.metric}": dataclasses.asdict(row.flips) | {"n": row.items} for row in rows}


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
    about = {task: {"settings": result.settings, "plan": result.plan} for task, result in results.items()}
    content = {"rows": rows, "tasks": about, "facts": facts, "flags": flags(facts["provenance"])}
    _write(folder, content)


def _write(folder: Path, content: dict[str, Any]) -> None:
    workdir.write_json(folder / "results.json", json.loads(json.dumps(content), parse_constant=lambda _: None))
