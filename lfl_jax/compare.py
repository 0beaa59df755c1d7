"""Compare scores that anybody measured, item by item: a base, and what was trained on it.

    python -m lfl_jax.compare BASE TUNED [TUNED ...]
    python -m lfl_jax.compare runs/quickstart
    python -m lfl_jax.compare logs/base logs/lora logs/full --margin=0.02 --out=comparison.json
    python -m lfl_jax.compare logs/base --runs=runs.csv --learning=gsm8k/exact_match,strict-match \\
        --forgetting=hellaswag/acc_norm --report=report

BASE and TUNED are
  a run directory         DIR:before or DIR:after; a directory alone, given once, is both
  a harness folder        what lm_eval --log_samples --output_path=DIR wrote
  a CSV file              columns run, item, score and, where there are any, cluster, task, metric;
                          FILE.csv:RUN is one run of it; a file alone holds the base first

--runs=FILE.csv           a study: columns method, lr, seed, step, folder; a folder is a model as
                          above; needs --learning=TASK/METRIC and --forgetting=TASK/METRIC
  --divergence=TASK/METRIC  how far a run went from its base: adds the contrasts at equal divergence
  --contrast=A,B          A against B, up to four times; by default all pairs
  --report=DIR            where its report goes (study_report; extra `study`)
--margin=0.02             a change that nobody would care for, in the metric's unit: 2 points
--out=FILE.json           writes the table's numbers

Every item is scored by both models, so that each change is a paired difference, with its 95 %
interval. Exit code 2: a mistake, said in a line.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

from lfl_jax.config.page_parser import PageParser
from lfl_jax.core import files
from lfl_jax.errors import UserError, entry
from lfl_jax.evals.stats import Estimate
from lfl_jax.studies import records
from lfl_jax.studies.comparison import Row, Verdict, compare
from lfl_jax.studies.records.scores import Scores

JSON: TypeAlias = dict[str, "JSON"] | list["JSON"] | str | float | int | None

STYLES = {Verdict.BETTER: "green", Verdict.WORSE: "red", Verdict.EQUIVALENT: "cyan"}


def main(argv: Sequence[str]) -> None:
    """The command above."""
    parser = _parser()
    options = parser.parse_args(list(argv[1:]))
    _require_usable(options)
    if options.runs:
        return study(options, parser.command_line(argv))
    # The first model is the base; a run directory holds two, a CSV file as many as it has runs.
    base, *others = _models(options.places)
    if not others:
        raise UserError(
            f"{options.places[0]} holds one model, {base.name}; name what to compare it with"
        )
    comparisons = {tuned.name: compare(base, tuned, options.margin) for tuned in others}

    console = Console()
    for name, rows in comparisons.items():
        console.print(table(base.name, name, rows))
    console.print(footnote(comparisons, options.margin), style="dim")
    if options.out:
        files.write_json(Path(options.out), as_json(base, comparisons, options.margin))
        console.print(f"written to {options.out}")


def _parser() -> PageParser:
    parser = PageParser("compare", __doc__)
    parser.add_argument("places", nargs="*")
    parser.add_argument("--margin", type=float, default=0.02)
    parser.texts("out", "runs", "learning", "forgetting", "divergence")
    parser.add_argument("--contrast", action="append", default=[])
    parser.add_argument("--report", default="study_report")
    return parser


def _require_usable(options: argparse.Namespace) -> None:
    if not options.places:
        raise UserError("nothing to compare; expected BASE TUNED (--help says more)")
    if not options.margin > 0:
        raise UserError(f"--margin={options.margin:g}: expected a positive number")


def study(options: argparse.Namespace, command: str) -> None:
    """The report of runs that anybody trained; command: what it names to make it again."""
    from lfl_jax.report.study import page
    from lfl_jax.studies import runs
    from lfl_jax.studies.answers import Question
    from lfl_jax.studies.arms import Measures
    from lfl_jax.studies.findings import find

    for name in ("learning", "forgetting"):
        if not getattr(options, name):
            raise UserError(f"--runs needs --{name}=TASK/METRIC")
    if not Path(options.runs).is_file():
        raise UserError(f"--runs={options.runs}: no such file")

    measures = Measures.parse(options.learning, options.forgetting, options.divergence)
    question = Question(measures, options.margin, tuple(map(_pair, options.contrast)))
    base = _models(options.places)[0]
    findings = find(base, runs.read(Path(options.runs)), question)

    about = page.About(f"What was learned, what was forgotten: {options.runs}", command)
    page.publish(findings, about, Path(options.report), Console())


def _models(paths: Sequence[str]) -> list[Scores]:
    """All models of all paths, in their order."""
    return [scores for path in paths for scores in records.read(path)]


def _pair(text: str) -> tuple[str, str]:
    first, comma, second = text.partition(",")
    if not comma or not second:
        raise UserError(f"--contrast={text}: expected two methods, FIRST,SECOND")
    return first, second


def table(base: str, tuned: str, rows: Sequence[Row]) -> Table:
    """A line per task and metric."""
    printed = Table(title=f"{tuned} against {base}", title_justify="left", box=None)
    printed.add_column("task")
    printed.add_column("metric")
    for name in ("base", "tuned", "change [95 %]", "items", "lost : gained"):
        printed.add_column(name, justify="right", no_wrap=True)
    printed.add_column("verdict")
    # One colour per verdict; "undecided" has none, because it says nothing.
    for row in rows:
        verdict = (
            f"[{STYLES[row.verdict]}]{row.verdict}[/]" if row.verdict in STYLES else row.verdict
        )
        printed.add_row(
            row.task,
            row.metric,
            _number(row.before.mean, row.percent),
            _number(row.after.mean, row.percent),
            _interval(row.change, row.percent),
            str(row.change.n),
            f"{row.flips.lost} : {row.flips.gained}" if row.flips else "",
            verdict,
        )
    return printed


def _number(value: float, percent: bool, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}" if percent else f"{value:{sign}.4g}"


def _interval(change: Estimate, percent: bool) -> str:
    limits = (_number(limit, percent, "+") for limit in (change.low, change.high))
    return f"{_number(change.mean, percent, '+')} [{', '.join(limits)}]"


def footnote(comparisons: dict[str, list[Row]], margin: float) -> str:
    """How to read the tables, and what many questions at once leave of them."""
    main = [row for rows in comparisons.values() for row in rows if row.p_holm is not None]
    decided = [row for row in main if row.verdict in (Verdict.BETTER, Verdict.WORSE)]
    # The tables decide each metric by itself; this line counts what holds for all together.
    lasting = [row for row in decided if row.p_holm < 0.05]
    return (
        f"equivalent: the interval lies within +-{margin:g}. lost : gained: items that became wrong"
        f" and right.\n{len(decided)} of {len(main)} main metrics are better or worse,"
        f" {len(lasting)} after Holm's correction for asking {len(main)} times."
    )


def as_json(base: Scores, comparisons: dict[str, list[Row]], margin: float) -> dict[str, Any]:
    """Every number of the tables; NaN is null."""
    rows = [
        {"base": base.name, "tuned": name, **_finite(dataclasses.asdict(row))}
        for name, comparison in comparisons.items()
        for row in comparison
    ]
    return {"margin": margin, "rows": rows}


def _finite(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    # Strict JSON has no NaN: an interval of a single cluster does not exist.
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    entry(main)
