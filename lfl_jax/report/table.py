"""The tables at the end of a run, on a terminal and in files."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from lfl_jax.evals import stats
from lfl_jax.evals.run import Result
from lfl_jax.io import workdir
from lfl_jax.report.rows import LABELS, SCORES, SECTIONS, Form, Prompted, Report, Row

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


def show(report: Report, figures: dict[str, str], flags: list[str], folder: Path, console: Any) -> None:
    """Print the tables, the run's figures and what must be known about them."""
    table = report.rows
    for section in SECTIONS:
        _show_rows(section, [row for row in table if row.section == section], console)
    if any(row.label in SCORES for row in table):
        _show_flips(table, console)
    _show_forms(report.forms, console)
    _show_prompted(report.prompted, console)
    _show_rows("Without items that the training source contains", [row.clean for row in table if row.clean], console)
    console.print("n items; ± one standard error, clustered; a change in colour is beyond two.", style="dim")
    console.print("log p(right): of the right choice, normalised over the choices of its question.", style="dim")
    if any(row.note for row in table):
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


def _show_forms(forms: list[Form], console: Any) -> None:
    if not forms:
        return
    shown = _table("Form and content", "in form", "right, in form", "ended itself")
    for form in forms:
        shown.add_row(LABELS.get(form.task, form.task), *map(_arrow, (form.formatted, form.right, form.ended)))
    console.print(shown)


def _arrow(pair: tuple[float | None, float | None]) -> str:
    before, after = ("none" if x is None else f"{100 * x:.0f}%" for x in pair)
    return f"{before} -> {after}"


def _show_prompted(prompted: list[Prompted], console: Any) -> None:
    if not prompted:
        return
    shown = _table("The base, by prompting alone", "n", "score")
    for each in prompted:
        shown.add_row(each.label, str(each.items), f"{100 * each.score.mean:.1f}% ±{100 * each.score.se:.1f}")
    console.print(shown)


def _show_flips(table: list[Row], console: Any) -> None:
    shown = _table("Items that changed sides", "n", "right to wrong", "wrong to right")
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


def save(report: Report, facts: dict[str, Any], folder: Path) -> None:
    """results.json: every row and figure, for programs."""
    content = dataclasses.asdict(report)
    for row in content["rows"]:
        row["label"] = row["label"].strip()
    _write(folder, content | {"facts": facts, "flags": flags(facts["provenance"])})


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
