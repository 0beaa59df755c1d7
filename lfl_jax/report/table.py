"""The results of a run on a terminal: two lines with the answer, then a table for each question.

learned: held-out problems, exact: 1.2% -> 53.8%, +52.5 [+38.8, +65.8]
forgotten: undecided, mean of three, acc: 49.2% -> 50.8%, +1.7 [-5.1, +8.6]

Learning                       n  before  after                change
held-out problems, exact      80    1.2%  53.8%  +52.5 [+38.8, +65.8]
  level 1, one step           48    2.1%  77.1%  +75.0 [+61.2, +85.1]

Prediction flips          correct to   incorrect  each by  lost / gained
                      n    incorrect  to correct   chance  beyond chance
WinoGrande, acc      40            1           4      7.6      0.0 / 0.0

Format                        format  accuracy given     emitted
                          compliance    valid format         EOS
held-out problems          1% -> 96%     100% -> 56%  92% -> 96%
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lfl_jax.evals.metrics import Measured, Section
from lfl_jax.evals.run import Result
from lfl_jax.report import cells
from lfl_jax.report.rows import Report, Row

SECTIONS: dict[Section, str] = {
    "learning": "Learning",
    "forgetting": "Forgetting",
    "diversity": "Diversity",
    "divergence": "Divergence from the base, nats per token",
}
COLOURS = {True: "green", False: "red", None: ""}  # of a change that is better, worse, undecided
# Columns from which before and after have room for their intervals; summary.txt has more.
WIDE = 110
STYLE = {
    "title_justify": "left",
    "title_style": "bold",
    "box": None,
    "padding": (0, 2, 0, 0),
    "pad_edge": False,
}
T = TypeVar("T")


def show(
    report: Report,
    figures: Mapping[str, str],
    flags: Sequence[str],
    folder: Path,
    console: Console,
) -> None:
    """Print the answer, the tables, the run's figures, and the reservations (`describe.flags`)."""
    _print_answer(report, console)
    for table in _tables(report, wide=console.width >= WIDE):
        if table.row_count:
            console.print(table, "")
    _print_notes(report, console)
    for name, value in figures.items():
        console.print(f"{name:<22}{value}", highlight=False, markup=False)
    _print_end(flags, folder, console)


def _tables(report: Report, wide: bool) -> list[Table]:
    """Every table, in this order; those without rows are not printed."""
    rows = [row for row in report.rows if row.metric.in_table]
    compared = [row for row in rows if row.change is not None]
    main_rows = [row for row in rows if row.is_main]
    tables = []
    for section, title in SECTIONS.items():
        in_section = [row for row in compared if row.section == section]
        tables.append(comparison(title, in_section, wide))

    # Tasks that only the base was evaluated on: config.eval.base_tasks. Format is left out of them:
    # it says something of a trained model's answers.
    prompted = {row.task for row in main_rows if row.after is None}
    scored = [row for row in rows if row.section != "format"]
    clean = [row.clean for row in main_rows if row.clean and row.clean.change]
    tables.append(prediction_flips([row for row in compared if row.flips]))
    tables.append(format_compliance([row for row in rows if row.section == "format"]))
    tables.append(prompting([row for row in scored if row.task in prompted]))
    tables.append(comparison("Without items that the training source contains", clean, wide))
    return tables


def comparison(title: str, rows: Sequence[Row], wide: bool) -> Table:
    """A metric before and after training, and its change, in colour where that is decided."""
    columns = [
        # The star is explained in the notes.
        Column[Row]("", lambda row: f"{row.label} *" if row.note else row.label),
        Column[Row]("n", lambda row: str(row.items)),
        Column[Row]("before", lambda row: cells.score(row.before, row.metric, with_interval=wide)),
        Column[Row]("after", lambda row: cells.score(row.after, row.metric, with_interval=wide)),
        Column[Row]("change", _coloured_change),
    ]
    return _table(title, columns, rows)


def prediction_flips(rows: Sequence[Row]) -> Table:
    """How many items became incorrect and correct, and how many do so by guessing."""
    columns = [
        Column[Row]("", lambda row: row.label),
        Column[Row]("n", lambda row: str(row.items)),
        Column[Row]("correct to\nincorrect", lambda row: str(row.flips.lost)),
        Column[Row]("incorrect\nto correct", lambda row: str(row.flips.gained)),
        Column[Row]("each by\nchance", lambda row: f"{row.flips.by_chance:.1f}"),
        Column[Row]("lost / gained\nbeyond chance", _beyond_chance),
    ]
    return _table("Prediction flips", columns, rows)


def format_compliance(rows: Sequence[Row]) -> Table:
    """How the generated answers of a task look, before -> after: a column for each metric."""
    tasks: dict[str, dict[str, Row]] = {}
    headings: dict[str, str] = {}
    for row in rows:
        tasks.setdefault(row.task, {})[row.metric.name] = row
        headings.setdefault(row.metric.name, _two_lines(row.metric.label))

    # An entry is a task, as {metric: its row}.
    columns = [Column[dict[str, Row]]("", lambda task: next(iter(task.values())).task_label)]
    for name, heading in headings.items():
        columns.append(Column(heading, lambda task, name=name: _before_to_after(task.get(name))))
    compared = [task for task in tasks.values() if _is_compared(task)]
    return _table("Format", columns, compared)


def _is_compared(rows: Mapping[str, Row]) -> bool:
    return any(row.change for row in rows.values())


def prompting(rows: Sequence[Row]) -> Table:
    """Scores of the base alone: the effect of prompting, without any training.

    With the rows of groups: a level after few-shot examples against the same level after training
    is the fair comparison.
    """
    columns = [
        Column[Row]("", lambda row: row.label),
        Column[Row]("n", lambda row: str(row.items)),
        Column[Row]("score", lambda row: cells.score(row.before, row.metric)),
    ]
    return _table("The base, by prompting alone", columns, rows)


@dataclass(frozen=True)
class Column(Generic[T]):
    """A heading, and the cell of an entry of the table (mostly a `Row`)."""

    heading: str
    cell: Callable[[T], str | Text]


def _table(title: str, columns: Sequence[Column[T]], entries: Sequence[T]) -> Table:
    """The first column is text, which may wrap; the others are figures, which may not."""
    table = Table(title=title, **STYLE)
    label, *numbers = columns
    table.add_column(label.heading, no_wrap=False, min_width=20)
    for column in numbers:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for entry in entries:
        # Labels hold brackets, which rich would read as markup outside of a Text.
        table.add_row(Text(label.cell(entry)), *(column.cell(entry) for column in numbers))
    return table


def _coloured_change(row: Row) -> Text:
    return Text(cells.change(row.change, row.metric), style=COLOURS[row.is_better])


def _beyond_chance(row: Row) -> str:
    return f"{row.flips.lost_beyond_chance:.1f} / {row.flips.gained_beyond_chance:.1f}"


def _before_to_after(row: Row | None) -> str:
    return cells.before_to_after(row.before, row.after) if row else ""


def _two_lines(heading: str) -> str:
    """A heading broken at the space nearest to its middle."""
    spaces = [i for i, character in enumerate(heading) if character == " "]
    if not spaces:
        return heading
    middle = min(spaces, key=lambda i: abs(i - len(heading) / 2))
    return f"{heading[:middle]}\n{heading[middle + 1 :]}"


def _print_answer(report: Report, console: Console) -> None:
    # Learning is a gain and forgetting a loss; the opposite of either is said in words.
    learned = {True: "", False: "less than before, ", None: "undecided, "}
    forgotten = {True: "nothing, it gained, ", False: "", None: "undecided, "}
    _print_headline("learned: ", report.learned, learned, console)
    _print_headline("forgotten: ", report.forgotten, forgotten, console)
    console.print()


def _print_headline(
    question: str, row: Row | None, verdicts: Mapping[bool | None, str], console: Console
) -> None:
    """Metric, before, after and change, on one line where they fit."""
    if row is None:
        answer = "not measured by any task of config.eval.tasks"
        console.print(Text.assemble((question, "bold"), answer))
        return

    before, after = (cells.figure(e, row.metric) for e in (row.before, row.after))
    values = f"{verdicts[row.is_better]}{row.label}: {before} -> {after},"
    change = cells.change(row.change, row.metric)
    is_short = len(f"{question}{values} {change}") <= console.width
    space = " " if is_short else "\n" + " " * len(question)
    coloured = (change, COLOURS[row.is_better])
    console.print(Text.assemble((question, "bold"), values, space, coloured))


def _print_notes(report: Report, console: Console) -> None:
    """How to read the tables, in as few lines as these need."""
    where = "" if console.width >= WIDE else " (before, after: summary.txt)"
    notes = [
        f"[low, high]: 95% interval, clustered over items{where}.",
        "change: paired by item, of percentages in points; undecided, or without",
        "colour: its interval covers no change.",
    ]
    # Only of what is in the tables.
    metrics = {row.metric.name for row in report.rows if row.metric.in_table}
    if "gold_logprob_norm" in metrics:
        notes.append("right: the right choice; log p: of it among the choices, each by its length.")
    if any(row.note for row in report.rows):
        notes.append("* no headroom: the base is within 3 standard errors of chance.")
    for note in notes:
        console.print(note, style="dim", highlight=False, markup=False)


def _print_end(flags: Sequence[str], folder: Path, console: Console) -> None:
    for flag in flags:
        console.print(f"note: {flag}", style="yellow", highlight=False, markup=False)
    # A path is never broken, so that it can be copied.
    console.print(f"{'written to':<22}{folder}", highlight=False, soft_wrap=True, markup=False)


def show_results(
    results: Mapping[str, Result], flags: Sequence[str], folder: Path, console: Console
) -> None:
    """Print the results of one model: every metric of every task, in the metric's own unit."""
    table = Table(**STYLE)
    table.add_column("", no_wrap=True)
    for heading in ("n", "", "95% interval", "chance"):
        table.add_column(heading, justify="right", no_wrap=True)
    for task, result in results.items():
        if result.measured:
            table.add_row(Text(task))
        for name, measured in result.measured.items():
            table.add_row(f"  {name}", *_plain_cells(measured))
    console.print(table, "")
    _print_end(flags, folder, console)


def _plain_cells(measured: Measured) -> tuple[str, str, str, str]:
    e, chance = measured.estimate, measured.chance
    interval = "" if math.isnan(e.low) else f"[{cells.plain(e.low)}, {cells.plain(e.high)}]"
    return str(e.n), cells.plain(e.mean), interval, cells.plain(chance) if chance else ""
