"""Train and evaluate one run.

    python -m lfl_jax.main --config=configs/math_ift.py --workdir=runs/math_ift

--config=FILE[:ARGUMENT]      a config, with its argument string: configs/math_ift.py:full,
                              :dora,r=64, :smoke, :paper
--config.SECTION.FIELD=VALUE  override a field; configs/base.py lists all, with units and values
--workdir=DIR                 the directory that everything is written to: config.json,
                              metrics.jsonl, tensorboard/, checkpoints/, results.json, summary.txt,
                              evals/<when>/<task>.jsonl (a record per item), contamination.json
                              (evaluation items in the training source), and with matplotlib
                              learning_forgetting.png, pass_at_k.png (several samples per program)
--distributed                 several processes, one per host, found through the cluster (a TPU
                              pod, Slurm, Open MPI), or through --coordinator=HOST:PORT
                              --processes=N --process_id=I (or LFL_COORDINATOR, LFL_PROCESSES,
                              LFL_PROCESS_ID); --join_timeout=50: seconds that they wait for each
                              other at the start (or LFL_JOIN_TIMEOUT)
--allow_code=FILE.py          a file with user code that the record of a run names, and that may
                              run; several times. FILE.py@HASH: a file that has changed since
--profile=10:15               trace steps 10 to 15 into the run directory's profile/, for
                              TensorBoard or Perfetto: short for --config.log.profile=10:15
--print_config                print the config and stop

The same command resumes a run that was interrupted (Ctrl-C saves first). Exit code 2: a mistake, in
one line; 3: training diverged (a loss that is no number, or above a hundred times that of uniform
guesses); 4: no room on the disk; 130: interrupted and saved.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from lfl_jax import config as configs
from lfl_jax.config import command_line
from lfl_jax.errors import UserError, entry

FLAGS = {
    "workdir": ("", "directory of the run"),
    "print_config": (False, "print the config and stop"),
    **command_line.CODE,
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

    with hosts.joined(options):
        execute(config, Path(options["workdir"]))


def execute(config: configs.Config, folder: Path) -> None:
    """Run it and print the table; exit code 130 for a run that was interrupted and saved."""
    from lfl_jax import api
    from lfl_jax.core import hosts

    # Libraries log to stderr; what a run says itself goes through `notices`.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    outcome = api.run(config, folder)
    if outcome.finished and hosts.is_first():
        outcome.show()
    if outcome.finished:
        return
    if hosts.is_first():
        print(
            f"stopped and saved at step {outcome.step} of {outcome.steps}; the same command"
            " resumes it"
        )
    # 128 + SIGINT, so that a shell or a scheduler does not take it for a finished run.
    sys.exit(130)


if __name__ == "__main__":
    entry(main)
