"""Do the paired runs of a study, and write its report: verdicts with their errors.

    python -m lfl_jax.study --config=configs/studies/smoke.py --workdir=studies/smoke
    python -m lfl_jax.study --config=configs/studies/lab.py --workdir=studies/lab --plan
    python -m lfl_jax.study --config=configs/studies/lab.py --workdir=studies/lab --only='^lora'

--config=FILE[:ARGUMENT]  a study; configs/studies/base.py lists its fields
--workdir=DIR             where everything goes: runs/NAME (a run directory each), runs.jsonl (how
                          each ended), base/ (evaluations that the runs share), report/index.html
--plan                    print the runs, how long they take (by one short run) and the smallest
                          difference that the study can find, and stop
--only=REGEX              only the runs whose names match
--jobs=N                  so many processes share the runs and this machine's cores, a core or more
                          each: small models use one core at a time. The tables are the same
--quiet                   without progress

The same command resumes a study that was interrupted (Ctrl-C saves all its runs first), reads
finished ones back and tries failed ones again. Exit code 2: a mistake, said in a line; 130: interrupted and saved.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lfl_jax.config.page_parser import PageParser
from lfl_jax.errors import UserError, entry


def _parser() -> PageParser:
    parser = PageParser("study", __doc__)
    parser.texts("config", "workdir", "only")
    parser.add_argument("--jobs", type=int, default=1)
    for name in ("plan", "quiet"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser


def _require_usable(options: argparse.Namespace) -> None:
    if not options.config:
        raise UserError("no --config given; for example --config=configs/studies/smoke.py")
    if not options.workdir:
        raise UserError("no --workdir given; for example --workdir=studies/smoke")


def main(argv: Sequence[str]) -> None:
    """The command above."""
    parser = _parser()
    options = parser.parse_args(list(argv[1:]))
    _require_usable(options)
    # A mistake in the study is said before jax is imported.
    from lfl_jax.studies import grid

    config = grid.load(options.config)
    planned = grid.expand(config)

    from lfl_jax import assets, lab_base
    from lfl_jax.core.process import keep_compiled_programs
    from lfl_jax.studies import execute, outcome, plan

    keep_compiled_programs(assets.writable("compiled"))
    study = execute.Study(Path(options.workdir).absolute(), planned)
    console = Console()
    for run in planned:
        # The lab's base is trained by whoever needs it first, once for all runs.
        lab_base.prepare(run.config, options.quiet)
    if options.plan:
        plan.show(config, study, console)
        return

    options_of_runs = {"only": options.only, "quiet": options.quiet, "jobs": options.jobs}
    finished = execute.execute(study, **options_of_runs)
    execute.show(study, study.states(), console)
    if not finished:
        console.print("stopped and saved; the same command resumes it")
        sys.exit(130)
    outcome.write(config, study, parser.command_line(argv), console)


if __name__ == "__main__":
    entry(main)
