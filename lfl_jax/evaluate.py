"""Evaluate a base model, or what was learned on it: our tasks, or any task of
lm-evaluation-harness.

    python -m lfl_jax.evaluate --run=runs/quickstart --out=evals/quickstart --config.eval.limit=0
    python -m lfl_jax.evaluate --config=configs/math_ift.py --config.model.path=DIR --adapter=PEFT_DIR --out=evals/mine
    python -m lfl_jax.evaluate --run=runs/quickstart --lm_eval=hellaswag,gsm8k --limit=100 --out=evals/harness

--run=DIR          a run: its config and its base, at --step=latest | best | a number. Where its base or data was moved:
                   --config.model.path=DIR, --config.data.path=FILE (they are compared by content)
--config=FILE      or a config, for the base it names; with --adapter=PATH: a PEFT folder, a run, a .safetensors file or
                   a fetched name; config.eval says what is measured, on how many items
--tasks=A:8,B      tasks in place of config.eval.tasks, with their numbers of items
--allow_code=FILE.py  a file with code of one's own that the run or adapter names, and that may run;
several times.
                   FILE.py@HASH: a file that has changed since, as it is now
--out=DIR          where records and results.json go; the same command goes on where an evaluation was interrupted
--lm_eval=A,B      tasks of lm-evaluation-harness instead (extra `eval`), with:
  --limit=N          the first N documents of each; 0 = all
  --shots=N          few-shot examples; -1 = what the task says
  --data=cache       documents from the fetched cache, or --data=hub: let the harness download them
  --include=DIR      a folder with more task files
  --chat             prompts in the tokenizer's chat template

--distributed      several processes, one per host, as lfl_jax.main takes it; for our tasks

What was learned is scored beside its base, by the same compiled program. Exit code 2: a mistake,
said in a line.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfl_jax import config as configs
from lfl_jax.config import command_line, locations, own_code
from lfl_jax.core.sharding import Rules
from lfl_jax.errors import UserError, entry
from lfl_jax.evals.task import Scorer
from lfl_jax.model import LoadedModel, Model

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
    words = command_line.split(argv[1:], FLAGS)
    if words.flags.get("run") and words.config is None:
        _check_run(words.flags["run"])
        argv = [argv[0], f"--config=configs/from_run.py:{words.flags['run']}", *argv[1:]]
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
    from lfl_jax.core import hosts

    with hosts.together(options):
        execute(config, options, Path(options["out"]).absolute())


def _with_tasks(config: configs.Config, text: str) -> configs.Config:
    """The config with the tasks of --tasks; a file that is named there may run."""
    here = functools.partial(locations.absolute, here=Path.cwd())
    tasks = tuple(own_code.changed(task, here) for task in text.split(","))
    files = [own_code.split(place)[0] for place in own_code.places("eval.tasks", tasks)]
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, tasks=tasks))
    return config.allowing(files)


def _check_run(run: str) -> None:
    if not (Path(locations.absolute(run, Path.cwd())) / "config.json").is_file():
        raise UserError(f"--run={run} is not the directory of a run: there is no config.json in it")


def execute(config: configs.Config, options: dict[str, Any], out: Path) -> None:
    """Load the model, evaluate it, print and write what came of it."""
    import jax

    from lfl_jax import assets
    from lfl_jax.core.process import keep_compiled_programs
    from lfl_jax.core.sharding import make_rules
    from lfl_jax.evals import suite
    from lfl_jax.io.lock import DirectoryLock
    from lfl_jax.run_setup import base_model

    keep_compiled_programs(assets.writable("compiled"))
    base_model.check(config)
    tasks = {} if options["lm_eval"] else suite.tasks_of(config, training=False)
    rules = make_rules(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    with DirectoryLock(out, process_index=jax.process_index()):
        base = base_model.load(config, rules)
        variants = _variants(base, options)
        if options["lm_eval"]:
            _harness(config, options, out, base, variants, rules)
        else:
            _tasks(config, options, out, base, variants, rules, tasks)


def _learned(options: dict[str, Any]) -> str:
    return options["run"] or options["adapter"]


def _variants(base: LoadedModel, options: dict[str, Any]) -> dict[str, Model]:
    """The models to compare: "base", and "tuned" where something was learned on it."""
    from lfl_jax.api import load_adapter
    from lfl_jax.run_setup import earlier_run

    allowed = command_line.files_of(options["allow_code"])
    if options["run"]:
        code, step = own_code.allowing(allowed), earlier_run.step_of(options["step"])
        tuned = earlier_run.load_onto(Path(options["run"]), base.model.params, step=step, code=code)
    elif options["adapter"]:
        params, adapter = load_adapter(options["adapter"], base.model.params, allow_code=allowed)
        tuned = Model(params=params, adapter=adapter)
    else:
        return {"base": base.model}
    # Without replaced parameters the base is the same program with routing weights of 0.
    same_parameters = tuned.params is base.model.params
    return {"base": tuned if same_parameters else base.model, "tuned": tuned}


def _scorer(
    config: configs.Config, base: LoadedModel, variant: str, model: Model, rules: Rules
) -> Scorer:
    from lfl_jax.core import tree
    from lfl_jax.evals import scorer

    adapted = variant == "tuned"
    fingerprint = tree.fingerprint(model) if adapted else base.origin.fingerprint
    options = {"generate_rows": config.eval.generate_rows, "seed": config.seed.sample}
    tag = f"{fingerprint}/{config.hash()}/{variant}"
    return scorer.build(model, base.cfg, base.tokenizer, rules, tag, adapted=adapted, **options)


def _tasks(
    config: configs.Config,
    options: dict,
    out: Path,
    base: LoadedModel,
    variants: dict[str, Model],
    rules: Rules,
    tasks: dict[str, Any],
) -> None:
    from rich.console import Console

    from lfl_jax import notices
    from lfl_jax.analysis import contamination
    from lfl_jax.core import hosts
    from lfl_jax.evals import inputs, suite
    from lfl_jax.report import describe, plots, results_json, table
    from lfl_jax.report.rows import report

    read, results = inputs.from_config(config), {}
    with notices.collected() as warnings:
        for name, model in variants.items():
            scorer = _scorer(config, base, name, model, rules)
            base_tasks = config.eval.base_tasks if name == "base" else ()
            names = (*config.eval.tasks, *base_tasks)
            evaluations = suite.Suite(config.eval, base.cfg.max_seq_len, tasks)
            results[name] = evaluations.run(names, scorer, read, out / name)
    if not hosts.is_first():
        return
    about = {
        "base": base.origin.provenance(),
        "config": config.hash(),
        "learned": _learned(options),
    }
    facts = {"provenance": about | {"warnings": warnings}}
    flags = describe.flags(facts["provenance"])
    if "tuned" in results:
        overlapping = contamination.read(Path(options["run"])) if options["run"] else None
        found = report(results["base"], results["tuned"], overlapping)
        results_json.save(found, facts, out)
        table.show(found, {"learned": _learned(options)}, flags, out, Console())
        plots.draw(found, results, out)
    else:
        results_json.save_results(results["base"], facts, out)
        table.show_results(results["base"], flags, out, Console())
        plots.pass_at_k(results, out)


def _harness(
    config: configs.Config,
    options: dict,
    out: Path,
    base: LoadedModel,
    variants: dict[str, Model],
    rules: Rules,
) -> None:
    from lfl_jax.evals import suite
    from lfl_jax.evals.harness import bridge

    for name, model in variants.items():
        print(f"{name}: {base.origin.source}")
        bridge.run(
            _scorer(config, base, name, model, rules),
            options["lm_eval"].split(","),
            dataclasses.replace(
                suite.settings(config.eval, base.cfg.max_seq_len),
                max_new_tokens=bridge.MAX_NEW_TOKENS,
            ),
            out=out / name,
            limit=options["limit"] or None,
            num_fewshot=None if options["shots"] < 0 else options["shots"],
            data=options["data"],
            include=options["include"],
            chat=options["chat"],
        )
    print(f"written to {out}")


if __name__ == "__main__":
    entry(main)
