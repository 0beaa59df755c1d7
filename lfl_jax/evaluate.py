"""Evaluate a base model, or what was learned on it: our tasks, or any of lm-evaluation-harness.

    python -m lfl_jax.evaluate --run=runs/quickstart --out=evals/quickstart --config.eval.limit=0
    python -m lfl_jax.evaluate --config=configs/math_ift.py --config.model.path=DIR \\
        --adapter=PEFT_DIR --out=evals/mine
    python -m lfl_jax.evaluate --run=runs/quickstart --lm_eval=hellaswag,gsm8k --limit=100 \\
        --out=evals/harness

--run=DIR             a run: its config and its base, at --step=latest | best | a number; where its
                      base or data was moved, with --config.model.path=DIR or
                      --config.data.path=FILE (compared by content)
--config=FILE         or a config, for the base it names and config.eval; with --adapter=PATH:
                      a PEFT folder, a run, a .safetensors file or a fetched name
--tasks=A:8,B         tasks in place of config.eval.tasks, with their numbers of items
--out=DIR             where records and results.json go; the same command resumes an interrupted
                      evaluation
--lm_eval=A,B         tasks of lm-evaluation-harness instead (extra `eval`), with:
  --limit=N             the first N documents of each; 0 = all
  --shots=N             few-shot examples; -1 = the task's own number
  --data=cache          documents from the fetched cache, or --data=hub: the harness downloads them
  --include=DIR         a folder with more task files
  --chat                prompts in the tokenizer's chat template
--allow_code=FILE.py  a file with code of yours that the run or adapter names, and that may run
                      (may be repeated); FILE.py@HASH: a file that has changed since, as it is now
--distributed         several processes, one per host, as lfl_jax.main takes it; for our tasks

The tuned model is scored beside its base, by the same compiled program. Exit code 2: a mistake,
named in one line.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from lfl_jax import config as configs
from lfl_jax.config import command_line, locations, own_code
from lfl_jax.errors import UserError, entry

FLAGS = {
    "run": ("", "directory of a run"),
    "step": ("latest", "which step of the run"),
    "adapter": ("", "an adapter for the config's base"),
    "tasks": ("", "tasks in place of the config's"),
    "out": ("", "directory for records and results"),
    "lm_eval": ("", "tasks of lm-evaluation-harness"),
    "limit": (0, "documents of each lm-eval task"),
    "shots": (-1, "few-shot examples of lm-eval tasks"),
    "data": ("cache", "cache or hub"),
    "include": ("", "folder with more lm-eval tasks"),
    "chat": (False, "lm-eval prompts in the chat template"),
    **command_line.CODE,
    **command_line.DISTRIBUTED,
}


def main(argv: Sequence[str]) -> None:
    """The command above."""
    # A run brings its own config, which flags of the command line then change.
    words = command_line.split(argv[1:], FLAGS)
    run = words.flags.get("run")
    if run and words.config is None:
        _check_run(run)
        argv = [argv[0], f"--config=configs/from_run.py:{run}", *argv[1:]]
    config, options = command_line.parse(argv, __doc__, FLAGS)

    if not options["out"]:
        raise UserError("no --out given; for example --out=evals/quickstart")
    if options["run"] and options["adapter"]:
        raise UserError("give either --run=DIR or --adapter=PATH")
    if options["step"] != "latest" and not options["run"]:
        raise UserError(f"--step={options['step']} is a step of a run; also give --run=DIR")
    if options["tasks"]:
        config = _with_tasks(config, options["tasks"])

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # jax takes seconds to import: not for --help, nor for a mistake in the flags.
    from lfl_jax.core import hosts

    with hosts.joined(options):
        # After the processes have found each other, which jax needs before its first use.
        from lfl_jax import evaluate_variants

        evaluate_variants.execute(config, options, Path(options["out"]).absolute())


def _with_tasks(config: configs.Config, text: str) -> configs.Config:
    """The config with the tasks of --tasks; a file that is named there may run."""
    # Files are relative to the current directory, and whoever names one here trusts it.
    absolute = functools.partial(locations.absolute, here=Path.cwd())
    tasks = tuple(own_code.changed(task, absolute) for task in text.split(","))
    files = [own_code.split(name)[0] for name in own_code.places("eval.tasks", tasks)]
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, tasks=tasks))
    return config.allowing(files)


def _check_run(run: str) -> None:
    if not (Path(locations.absolute(run, Path.cwd())) / "config.json").is_file():
        raise UserError(f"--run={run} is not the directory of a run: there is no config.json in it")


if __name__ == "__main__":
    entry(main)
