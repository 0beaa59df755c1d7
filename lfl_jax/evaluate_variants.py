"""The work of `lfl_jax.evaluate`: a base, and the model tuned from it, on the same items."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from lfl_jax import assets, notices
from lfl_jax.analysis import contamination
from lfl_jax.api import load_adapter
from lfl_jax.config import Config, command_line, own_code
from lfl_jax.core import hosts, tree
from lfl_jax.core.process import keep_compiled_programs
from lfl_jax.core.sharding import Rules
from lfl_jax.evals import inputs, scorer, suite
from lfl_jax.evals.harness import bridge
from lfl_jax.evals.run import Result
from lfl_jax.evals.task import Scorer, Task
from lfl_jax.io.lock import DirectoryLock
from lfl_jax.model import LoadedModel, Model
from lfl_jax.report import describe, plots, results_json, table
from lfl_jax.report.rows import report
from lfl_jax.run_setup import base_model, devices, earlier_run

Options = Mapping[str, Any]  # values of `evaluate.FLAGS`


def execute(config: Config, options: Options, folder: Path) -> None:
    """Load the models, evaluate them, print the results and write them to `folder`."""
    keep_compiled_programs(assets.writable("compiled"))
    # Mistakes in the config are named before gigabytes are read.
    base_model.check(config)
    tasks = {} if options["lm_eval"] else suite.tasks_of(config, training=False)
    rules = devices.rules(config, base_model.shape(config), trains=False)

    with DirectoryLock(folder, process_index=jax.process_index()):
        base = base_model.load(config, rules)
        variants = Variants(config, rules, base, _models(base, options))
        if options["lm_eval"]:
            _run_harness(variants, options, folder)
        else:
            _run_tasks(variants, tasks, options, folder)


def _models(base: LoadedModel, options: Options) -> dict[str, Model]:
    """{"base": model}, with {"tuned": model} where a run or an adapter is given."""
    tuned = _tuned(base, options)
    if tuned is None:
        return {"base": base.model}
    # Where no parameter was replaced, the base is the tuned model with routing weights 0: the same
    # compiled program, and one copy of the parameters.
    shares_parameters = tuned.params is base.model.params
    return {"base": tuned if shares_parameters else base.model, "tuned": tuned}


def _tuned(base: LoadedModel, options: Options) -> Model | None:
    """The model of --run at its --step, or the base with --adapter; None without either."""
    allowed = command_line.files_of(options["allow_code"])
    if options["run"]:
        folder, step = Path(options["run"]), earlier_run.step_of(options["step"])
        code = own_code.allowing(allowed)
        return earlier_run.load_onto(folder, base.model.params, step=step, code=code)
    if options["adapter"]:
        params, adapter = load_adapter(options["adapter"], base.model.params, allow_code=allowed)
        return Model(params=params, adapter=adapter)
    return None


@dataclass(frozen=True)
class Variants:
    """The models to compare, {"base" or "tuned": model}, and what they have in common."""

    config: Config
    rules: Rules
    base: LoadedModel
    models: dict[str, Model]

    @property
    def window(self) -> int:
        """The context length of the models."""
        return self.base.cfg.max_seq_len

    def scorer(self, name: str) -> Scorer:
        """A model as evaluations see it; its tag names its weights in the records."""
        adapted = name == "tuned"
        base_params = self.base.model.params
        shares_parameters = self.models[name].params is base_params
        # A tag of the weights' content: records of another model are evaluated again.
        weights = tree.fingerprint(self.models[name]) if adapted else self.base.origin.fingerprint
        return scorer.build(
            self.models[name],
            self.base.cfg,
            self.base.tokenizer,
            self.rules,
            tag=f"{weights}/{self.config.hash()}/{name}",
            adapted=adapted,
            base_params=None if shares_parameters else lambda: base_params,
            generate_rows=self.config.eval.generate_rows,
            seed=self.config.seed.sample,
        )


def _run_tasks(
    variants: Variants, tasks: Mapping[str, Task], options: Options, folder: Path
) -> None:
    """Evaluate the tasks of the config; records go to `folder`/base and `folder`/tuned."""
    e = variants.config.eval
    task_inputs = inputs.from_config(variants.config)
    evaluations = suite.Suite(e, variants.window, tasks)
    results: dict[str, dict[str, Result]] = {}
    with notices.collected() as warnings:
        for name in variants.models:
            # Few-shot prompts, for example, are tried on the base only.
            names = (*e.tasks, *(e.base_tasks if name == "base" else ()))
            scorer = variants.scorer(name)
            results[name] = evaluations.run(names, scorer, task_inputs, folder / name)
    # The other processes have computed; one prints and writes.
    if not hosts.is_first():
        return

    provenance = {
        "base": variants.base.origin.provenance(),
        "config": variants.config.hash(),
        "learned": options["run"] or options["adapter"],
        "warnings": warnings,
    }
    if "tuned" in results:
        _report_change(results, provenance, options, folder)
    else:
        results_json.save_results(results["base"], {"provenance": provenance}, folder)
        table.show_results(results["base"], describe.flags(provenance), folder, Console())
        plots.pass_at_k(results, folder)


def _report_change(
    results: Mapping[str, Mapping[str, Result]],
    provenance: dict[str, Any],
    options: Options,
    folder: Path,
) -> None:
    """The report of base and tuned model: results.json, the printed tables, and the figures."""
    # Of the run's training source; an adapter file does not say what it was trained on.
    overlaps = contamination.read(Path(options["run"])) if options["run"] else None
    change = report(results["base"], results["tuned"], overlaps)
    results_json.save(change, {"provenance": provenance}, folder)
    learned = {"learned": provenance["learned"]}
    table.show(change, learned, describe.flags(provenance), folder, Console())
    plots.draw(change, results, folder)


def _run_harness(variants: Variants, options: Options, folder: Path) -> None:
    """Evaluate tasks of lm-evaluation-harness, which prints a table of its own for each model."""
    # The harness's default where a task names no number, not config.eval's.
    settings = dataclasses.replace(
        suite.settings(variants.config.eval, variants.window), max_new_tokens=bridge.MAX_NEW_TOKENS
    )
    for name in variants.models:
        print(f"{name}: {variants.base.origin.source}")
        bridge.run(
            variants.scorer(name),
            options["lm_eval"].split(","),
            settings,
            out=folder / name,
            limit=options["limit"] or None,
            num_fewshot=None if options["shots"] < 0 else options["shots"],
            data=options["data"],
            include=options["include"],
            chat=options["chat"],
        )
    print(f"written to {folder}")
