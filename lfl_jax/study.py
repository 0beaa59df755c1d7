"""Do the paired runs of a study, and write its report: verdicts with their errors.

    python -m lfl_jax.study --config=configs/studies/smoke.py --workdir=studies/smoke
    python -m lfl_jax.study --config=configs/studies/lab.py --workdir=studies/lab --plan
    python -m lfl_jax.study --config=configs/studies/lab.py --workdir=studies/lab --only='^lora'
    python -m lfl_jax.study --config=configs/studies/search.py --workdir=studies/search

--config=FILE[:ARGUMENT]  a study, or a search for the best learning rate, modules and rank, which
                          ends in search.json; configs/studies/base.py lists the fields of both
--workdir=DIR             where everything goes: runs/NAME (a run directory each), runs.jsonl (how
                          each ended), base/ (evaluations that the runs share), report/index.html
--plan                    print the runs, how long they take with --jobs (by short runs), bytes
                          and the smallest difference that the study can find, and stop
--only=REGEX              only the runs whose names match
--jobs=N                  so many processes share the runs and this machine's cores, a core or more
                          each: small models use one core at a time. The tables are the same
--slurm[=FIELD=VALUE,...] many machines: jobs of a Slurm array share the runs, and this process
                          waits for them and writes the report. partition=gpu, gpus_per_node=1,
                          timeout_min=720, mem_gb=64 and whatever else submitit takes; jobs=8: how
                          many; cluster=local: processes of this machine. Needs the extra slurm,
                          and a workdir that all machines share
--no_wait                 with --slurm: submit and stop; the same command without it waits
--quiet                   without progress

The same command resumes a study that was interrupted (Ctrl-C saves all its runs first), reads
finished ones back and tries failed ones again. Exit code 2: a mistake, said in a line, or a search
whose best value is at the edge of its range; 130: interrupted and saved.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from lfl_jax.config import locations
from lfl_jax.config.page_parser import PageParser
from lfl_jax.errors import UserError, entry

if TYPE_CHECKING:
    from lfl_jax.studies.grid import StudyConfig
    from lfl_jax.studies.running.execute import Study


def _parser() -> PageParser:
    parser = PageParser("study", __doc__)
    parser.texts("config", "workdir", "only")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--slurm", nargs="?", const="")
    for name in ("plan", "quiet", "no_wait"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser


def _require_usable(options: argparse.Namespace) -> None:
    if not options.config:
        raise UserError("no --config given; for example --config=configs/studies/smoke.py")
    if not options.workdir:
        raise UserError("no --workdir given; for example --workdir=studies/smoke")
    if options.slurm is None and options.no_wait:
        raise UserError("--no_wait is for --slurm: without it the runs are done by this process")
    if options.slurm is not None and options.jobs != 1:
        raise UserError(f"--jobs={options.jobs} shares the cores of this machine: --slurm=jobs=N")
    options.workdir = locations.absolute(options.workdir, Path.cwd())


def main(argv: Sequence[str]) -> None:
    """The command above."""
    parser = _parser()
    options = parser.parse_args(list(argv[1:]))
    _require_usable(options)
    # A mistake in the study is said before jax is imported.
    from lfl_jax.studies import grid

    values = grid.load_values(options.config)
    kind = values.get("kind")
    if kind not in KINDS:
        raise UserError(f"{options.config}: kind {kind!r}; expected one of {', '.join(KINDS)}")
    KINDS[kind](values, options, parser.command_line(argv))


def _study(values: Mapping[str, object], options: argparse.Namespace, command: str) -> None:
    """Compare methods, and publish a report."""
    from lfl_jax.studies import grid

    config, folder = grid.read(values), Path(options.workdir)
    planned = grid.expand(config, folder)

    from lfl_jax import assets, lab_base
    from lfl_jax.core.process import keep_compiled_programs
    from lfl_jax.io import wandb_log
    from lfl_jax.studies import outcome
    from lfl_jax.studies.running import execute, measuring, plan

    keep_compiled_programs(assets.writable("compiled"))
    study = execute.Study(folder, planned, retention=config.checkpoints)
    console = Console()
    for run in planned:
        # The lab's base is trained by whoever needs it first, once for all runs.
        lab_base.prepare(run.config, options.quiet)
    if options.plan:
        plan.show(config, study, console, options.jobs)
        return

    # Refused now, and not once its runs are done.
    log = planned[0].config.log
    wandb_log.check(log.wandb)
    if options.slurm is not None:
        finished = _on_cluster(config, study, options)
        if options.no_wait:
            return
    else:
        options_of_runs = {"only": options.only, "quiet": options.quiet, "jobs": options.jobs}
        finished = execute.execute(study, **options_of_runs)
    states = study.states()
    execute.show(study, states, console)
    if not finished:
        _stop(console)
    measured = {"jobs": options.jobs, "show_progress": not options.quiet}
    if not measuring.complete(config, study, states, **measured):
        _stop(console)
    page = outcome.write(config, study, states, command, console)
    if log.wandb:
        wandb_log.report_of_study(log.wandb, folder, values, log.wandb_group, page.parent)


def _on_cluster(config: "StudyConfig", study: "Study", options: argparse.Namespace) -> bool:
    """The study's runs by jobs of a cluster; whether all of them ended."""
    from lfl_jax.studies.running import execute, submitted

    how = {"wait": not options.no_wait, "quiet": options.quiet}
    chosen = execute.select(study.runs, options.only)
    return submitted.finish(config, study, chosen, submitted.read(options.slurm), **how)


def _search(values: Mapping[str, object], options: argparse.Namespace, command: str) -> None:
    """Find the best config by successive halving, and print its command."""
    from lfl_jax.studies.search import search

    config = search.read(values)
    if options.only:
        raise UserError("--only is for studies: a search chooses its runs itself")
    if options.slurm is not None:
        raise UserError("--slurm is for studies: what a search runs next depends on the last runs")

    from lfl_jax import assets, lab_base
    from lfl_jax.core.process import keep_compiled_programs
    from lfl_jax.studies.search import report as search_report
    from lfl_jax.studies.search import rungs as search_rungs

    console = Console()
    if options.plan:
        search_report.show_plan(config, console)
        return
    keep_compiled_programs(assets.writable("compiled"))
    how = {"quiet": options.quiet, "jobs": options.jobs}
    task = search_rungs.Search(config, Path(options.workdir), **how)
    lab_base.prepare(search.first_config(config), options.quiet)
    try:
        search_report.follow(task, command, console)
    except search_rungs.Interrupted:
        _stop(console)


def _stop(console: Console) -> NoReturn:
    console.print("stopped and saved; the same command resumes it")
    sys.exit(130)


# What a config of configs/studies/ asks for, by its field `kind`.
KINDS = {"study": _study, "search": _search}


if __name__ == "__main__":
    entry(main)
