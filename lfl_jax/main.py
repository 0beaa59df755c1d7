"""Train and evaluate one run.

    python -m lfl_jax.main --config=configs/math_ift.py --workdir=runs/math_ift

--config=FILE[:ARGUMENT]     a config, with its argument string: configs/math_ift.py:full, :dora,r=64, :smoke, :paper
--config.SECTION.FIELD=VALUE override a field; configs/base.py lists them all, with units and legal values
--workdir=DIR                where everything goes: config.json, metrics.jsonl, tensorboard/, checkpoints/,
                             evals/<when>/<task>.jsonl (a record per item), results.json, summary.txt,
                             contamination.json (evaluation items in the training source), and with matplotlib
                             learning_forgetting.png, pass_at_k.png (several samples of each program)
--distributed                several processes, one per host, found through the cluster (a TPU pod, Slurm, Open MPI), or
                             through --coordinator=HOST:PORT --processes=N --process_id=I (or LFL_COORDINATOR,
                             LFL_PROCESSES, LFL_PROCESS_ID)
--print_config               print the config and stop

The same command goes on where a run was interrupted (Ctrl-C saves first). Exit code 2: a mistake, said in a line;
3: the loss became infinite or not a number; 130: interrupted and saved.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfl_jax import command_line
from lfl_jax import config as configs
from lfl_jax.errors import UserError, entry

FLAGS = {
    "workdir": ("", "directory of the run"),
    "print_config": (False, "print the config and stop"),
    **command_line.DISTRIBUTED,
}


def main(argv: Sequence[str]) -> None:
    """The command above."""
    config, options = command_line.parse(argv, __doc__, FLAGS)
    if options["print_config"]:
        print(config.to_json())
        return
    if not options["workdir"]:
        raise UserError("no --workdir given; for example --workdir=runs/math_ift")
    from lfl_jax.core import hosts

    with hosts.together(options):
        execute(config, Path(options["workdir"]))


def execute(config: configs.Config, folder: Path) -> None:
    """Run it, print the table, write results.json and summary.txt."""
    from rich.console import Console

    from lfl_jax import assets, notices, train
    from lfl_jax.core import hosts
    from lfl_jax.core.process import keep_compiled_programs
    from lfl_jax.evals import contamination
    from lfl_jax.report import plots, table
    from lfl_jax.report.rows import report

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    keep_compiled_programs(assets.writable("compiled"))
    folder = folder.absolute()
    with notices.collected() as warnings:
        outcome = train.run(train.Run(config, folder))
    console = Console()
    if not outcome.finished:
        if hosts.is_first():
            console.print(
                f"stopped and saved at step {outcome.facts['step']} of {outcome.facts['steps']};"
                " the same command goes on"
            )
        sys.exit(130)
    if not hosts.is_first():
        return
    facts, found = outcome.facts, report(outcome.before, outcome.after, contamination.read(folder))
    if not outcome.trained:  # the run was at its end before: the figures of its training stand
        facts = table.saved_facts(folder) or facts
    facts["provenance"]["warnings"] = warnings  # also where the other figures are an earlier start's
    table.save(found, facts, folder)
    shown = (found, table.figures(facts), table.flags(facts["provenance"]), folder)
    with (folder / "summary.txt").open("w", encoding="utf-8") as file:
        table.show(*shown, Console(file=file, width=120))
    table.show(*shown, console)
    plots.draw(found, {"base": outcome.before, "tuned": outcome.after}, folder)
    if config.log.wandb:
        _to_wandb(config, outcome, folder)


def _to_wandb(config: configs.Config, outcome: Any, folder: Path) -> None:
    from lfl_jax.evals import suite
    from lfl_jax.io import wandb_log

    before, after = suite.flat(outcome.before), suite.flat(outcome.after)
    scores = {f"before/{name}": x for name, x in before.items()} | {f"after/{name}": x for name, x in after.items()}
    wandb_log.report(config.log.wandb, folder, dataclasses.asdict(config), scores)


if __name__ == "__main__":
    entry(main)
