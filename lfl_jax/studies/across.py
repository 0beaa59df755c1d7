"""One contrast over several studies: does the difference change with the size of the model?

    python -m lfl_jax.studies.across studies/size-0.3m studies/size-1m studies/size-3m

Each is the directory of a study with a report, such as those of configs/studies/size.py. Prints the
contrast of every study beside its model's parameters, and how much it changes with each doubling.
--contrast=FIRST,SECOND   default: the first one of the first study
--equal=WHAT              what is held equal: learning (default), or another of the reports'
--out=DIR                 also across.csv, across.svg, .png and .pdf there
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy import stats

from lfl_jax.config.page_parser import PageParser
from lfl_jax.core import files, spec
from lfl_jax.errors import UserError, entry
from lfl_jax.models import llama
from lfl_jax.report.study.tables import Table
from lfl_jax.run_setup import base_model, earlier_run
from lfl_jax.statistics import meta_regression
from lfl_jax.statistics.effects import LEVEL, Effect
from lfl_jax.studies.answers import PRIMARY
from lfl_jax.studies.records import run_directories

COLUMNS = ("study", "parameters", "difference", "95 % low", "95 % high", "first forgets")
VERDICTS = Path("report/tables/verdicts.csv")


@dataclass(frozen=True)
class Contrast:
    """What a study's report says of a contrast. parameters: of its base."""

    study: str
    parameters: int
    effect: float
    low: float
    high: float
    verdict: str

    @property
    def se(self) -> float:
        """The standard error, taken from the interval as if it were a normal one's.

        The interval is Student's, so that this is a little too large.
        """
        return (self.high - self.low) / 2 / float(stats.norm.ppf((1 + LEVEL) / 2))

    def row(self) -> tuple[str | float | int, ...]:
        """Its cells, under COLUMNS."""
        return (self.study, self.parameters, self.effect, self.low, self.high, self.verdict)


def read(folder: Path, pair: tuple[str, str] | None, equal: str) -> Contrast:
    """A study's contrast; its first one where no pair is named.

    Raises UserError for a directory without a report, and a contrast that it does not decide.
    """
    file = folder / VERDICTS
    if not file.exists():
        raise UserError(f"{folder} has no report: {VERDICTS} is missing; run the study first")
    with files.expecting(file, "a study's verdicts"), file.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["equal"] == equal]
        chosen = [row for row in rows if pair in (None, (row["first"], row["second"]))]
    if not chosen:
        there = ", ".join(f"{row['first']},{row['second']}" for row in rows)
        raise UserError(f"{file}: no such contrast at equal {equal}; there are: {there or 'none'}")
    row = chosen[0]
    with files.expecting(file, "a study's verdicts"):
        if not row["95 % low"]:
            why = row["reason"] or "it has one seed"
            raise UserError(f"{folder}: {row['first']},{row['second']} has no interval: {why}")
        numbers = [float(row[name]) for name in ("effect", "95 % low", "95 % high")]
        verdict = row["first forgets"]
    return Contrast(folder.name, parameters(folder), *numbers, verdict)


def parameters(folder: Path) -> int:
    """Of the base of a study's runs; UserError where it has none."""
    cfg = base_model.shape(earlier_run.read_config(run_directories.finished(folder)[0]))
    return spec.count(llama.specs(cfg))


def trend(contrasts: Sequence[Contrast]) -> Effect:
    """How much the difference changes with each doubling; UserError as `meta_regression.slope`."""
    doublings = np.log2([float(contrast.parameters) for contrast in contrasts])
    effects = np.array([contrast.effect for contrast in contrasts])
    return meta_regression.slope(doublings, effects, np.array([c.se for c in contrasts]))


def main(argv: Sequence[str]) -> None:
    """The command above."""
    parser = PageParser("studies.across", __doc__)
    parser.add_argument("folders", nargs="*")
    parser.texts("contrast", "out")
    parser.add_argument("--equal", default=PRIMARY)
    options = parser.parse_args(list(argv[1:]))
    pair = tuple(options.contrast.split(",")) if options.contrast else None
    if len(options.folders) < 2 or (pair and len(pair) != 2):
        raise UserError("expected directories of two studies or more, and --contrast=FIRST,SECOND")

    contrasts = [read(Path(folder), pair, options.equal) for folder in options.folders]
    contrasts.sort(key=lambda contrast: contrast.parameters)
    caption = f"The contrast at equal {options.equal} in every study, by parameters of the base."
    table = Table("across", caption, COLUMNS, tuple(contrast.row() for contrast in contrasts))
    _show(table, contrasts, Console())
    if options.out:
        _write(table, Path(options.out))


def _show(table: Table, contrasts: Sequence[Contrast], console: Console) -> None:
    console.print(table.printed())
    # Two studies have a difference, and no trend.
    if len(contrasts) < meta_regression.LEAST_STUDIES:
        return
    change = trend(contrasts)
    low, high = change.interval()
    console.print(f"with each doubling {change.mean:+.3g} [{low:+.3g}, {high:+.3g}]")


def _write(table: Table, folder: Path) -> None:
    from lfl_jax.report.study.figures import across

    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "across.csv", table.csv())
    figure = across.across(table)
    figure.write(folder, figure.svg())


if __name__ == "__main__":
    entry(main)
