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
--quiet                   without progress

The same command resumes a study that was interrupted (Ctrl-C saves first), reads finished runs back
and tries failed ones again. Exit code 2: a mistake, said in a line; 130: interrupted and saved.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from lfl_jax.errors import UserError, entry


class _Parser(argparse.ArgumentParser):
    """Mistakes are said as everywhere: in a line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help says more)")


def _options(argv: Sequence[str]) -> argparse.Namespace:
    # The help is the page above; argparse's own listing of flags would say it a second time.
    parser = _Parser(
        prog="python -m lfl_jax.study",
        usage=argparse.SUPPRESS,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    for name in ("config", "workdir", "only"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    for name in ("plan", "quiet"):
        parser.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    options = parser.parse_args(list(argv[1:]))
    if not options.config:
        raise UserError("no --config given; for example --config=configs/studies/smoke.py")
    if not options.workdir:
        raise UserError("no --workdir given; for example --workdir=studies/smoke")
    return options


def main(argv: Sequence[str]) -> None:
    """The command above."""
    options = _options(argv)
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

    finished = execute.execute(study, only=options.only, quiet=options.quiet)
    execute.show(study, study.states(), console)
    if not finished:
        console.print("stopped and saved; the same command resumes it")
        sys.exit(130)
    command = " ".join(["python -m lfl_jax.study", *map(shlex.quote, argv[1:])])
    outcome.write(config, study, command, console)


if __name__ == "__main__":
    entry(main)
