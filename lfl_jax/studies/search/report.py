"""What a search prints: a table of every rung, its choice, and the command to use."""

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lfl_jax.errors import mistakes
from lfl_jax.statistics.effects import Effect
from lfl_jax.studies.search import files as search_files
from lfl_jax.studies.search import rungs as search_rungs
from lfl_jax.studies.search import search
from lfl_jax.studies.search.choice import choose
from lfl_jax.studies.search.files import Report
from lfl_jax.studies.search.rungs import Rung, Search
from lfl_jax.studies.search.search import Candidate, SearchConfig


def follow(task: Search, command: str, console: Console) -> Report:
    """Do a search, print every rung as it is decided, and write its files.

    UserError, once all of it is written, for a best value at the edge of its range. Raises
    `search_rungs.Interrupted`.
    """
    rungs: list[Rung] = []
    for rung in search_rungs.rungs(task):
        rungs.append(rung)
        show_rung(task.config, rung, console)
    choice = choose(task.config, rungs[-1])
    # Test items are looked at once, for a config that will be used.
    tested = [] if choice.edges else search_rungs.test(task, choice.best)
    flags = search_rungs.flags(task, choice.best)
    report = Report(task.config, rungs, choice, tested, command, flags)
    written = search_files.write(report, task.folder)
    show(report, written, console)
    if choice.edges:
        raise mistakes([f"refused: {edge}" for edge in choice.edges])
    return report


def show_plan(config: SearchConfig, console: Console) -> None:
    """Print how many runs of which length there will be at most, before any is done."""
    count, runs = len(search.candidates(config)), 0
    for index, steps in enumerate(config.steps):
        seeds = len(config.seeds) if steps == config.steps[-1] else 1
        console.print(f"rung {index + 1}: {count} candidates x {steps} steps x {seeds} seeds")
        runs += count * seeds
        count = math.ceil(count / config.keep)
    console.print(
        f"{runs} runs, and at the last rung those of the best one's neighbours that are not there"
    )


def show_rung(config: SearchConfig, rung: Rung, console: Console) -> None:
    """Print a rung, its best candidate first."""
    seeds = f"{len(rung.seeds)} seed{'s' * (len(rung.seeds) > 1)}"
    title = f"{rung.steps} steps, {seeds}: {config.measure} on {len(rung.clusters)} dev items"
    # The title of a table would be wrapped to its width.
    console.print(f"\n{title}", markup=False, soft_wrap=True)
    table = Table(box=None)
    for column in ("", "targets", "rank", "lr", "score", "95 %"):
        table.add_column(column, justify="left" if column == "targets" else "right")
    for index, candidate in enumerate(rung.ranked(), 1):
        score = rung.score(candidate)
        numbers = (f"{score.mean:.4g}", interval(score))
        table.add_row(str(index), *_cells(candidate), *numbers)
    for candidate in rung.dropped:
        table.add_row("-", *_cells(candidate), "none", "")
    console.print(table)
    for reason in rung.dropped.values():
        console.print(reason, markup=False, soft_wrap=True)


def interval(effect: Effect) -> str:
    """ "[1.2, 1.4]"; nothing where there is one seed."""
    low, high = effect.interval()
    return "" if math.isnan(low) else f"[{low:.4g}, {high:.4g}]"


def show(report: Report, written: Path, console: Console) -> None:
    """Print the best candidate, how sure it is, its scores on test items, and its command."""
    for line in summary(report):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"written to {written}", markup=False, soft_wrap=True)
    if not report.tested:
        return
    console.print("\non the test items")
    table = Table(box=None)
    for column in ("", "base", "tuned", "change", "95 %"):
        table.add_column(column, justify="right" if column else "left")
    for row in report.tested:
        numbers = [f"{number:.4g}" for number in (row.base, row.tuned, row.change.mean)]
        table.add_row(str(row.measure), *numbers, interval(row.change))
    console.print(table)
    console.print(
        f"to use it:\n{search_files.command(report.config, report.choice.best)}",
        markup=False,
        soft_wrap=True,
    )


def summary(report: Report) -> list[str]:
    """The choice in sentences, after what is to be known of the data."""
    choice, last = report.choice, report.rungs[-1]
    lines = [
        *report.flags,
        f"best at {last.steps} steps: {choice.best}, {report.config.measure}"
        f" {choice.score.mean:.4g} {interval(choice.score)} on dev items; chosen in"
        f" {choice.share:.0%} of resamples of {len(last.seeds)} seeds and {len(last.clusters)}"
        " items",
    ]
    # A rate beside the best may have diverged, or a seed is alone.
    if choice.optimum is None:
        lines.append(f"no interval of the learning rate: {choice.no_optimum}")
    else:
        low, high = choice.optimum.interval()
        lines.append(
            f"learning rate of the optimum at its modules and rank: {choice.optimum.rate:.3g},"
            f" 95 % interval over seeds [{low:.3g}, {high:.3g}]"
        )
    return lines


def _cells(candidate: Candidate) -> tuple[str, str, str]:
    return candidate.targets, str(candidate.rank), f"{candidate.lr:g}"
