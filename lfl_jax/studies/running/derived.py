"""A finished run with its change scaled, evaluated without training again: W + scale dW.

Scaling an adapter, or averaging trained parameters with the base's (WiSE-FT, Wortsman et al., arXiv
2109.01903), trades what was learned for what was forgotten. Scale 0 is the base and scale 1 the
run, both exactly.
"""

import operator
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import jax
from jaxtyping import Array, Shaped

from lfl_jax import adapters, notices
from lfl_jax.analysis import contamination
from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.core.types import Params
from lfl_jax.evals import inputs, scorer, suite
from lfl_jax.evals.run import Result
from lfl_jax.evals.task import Inputs, Scorer
from lfl_jax.io import workdir
from lfl_jax.io.lock import DirectoryLock
from lfl_jax.model import LoadedModel, Model
from lfl_jax.report import results_json
from lfl_jax.report.rows import report
from lfl_jax.run_setup import base_model, earlier_run, run_length
from lfl_jax.train_setup import base_tag

# In the directory: whose change, and the factor on it.
RECORD = "derived.json"

# Codes of a quantised weight are leaves, too, which never train.
Leaf: TypeAlias = Shaped[Array, "..."]


def scaled(base: Model, tuned: Model, factor: float) -> Model:
    """The model between a base and what was tuned from it, in the space of weights."""

    def between(ours: Leaf, theirs: Leaf) -> Leaf:
        # What did not train is the base's own array. Not ours + factor (theirs - ours), which
        # would not be exactly `theirs` at 1.
        return ours if theirs is ours else (1 - factor) * ours + factor * theirs

    params = jax.tree.map(between, base.params, tuned.params)
    adapter = adapters.scale(tuned.adapter, factor) if tuned.adapter else {}
    return Model(params=params, adapter=adapter)


def evaluate(source: Path, config: Config, factor: float, folder: Path, base_records: Path) -> None:
    """Evaluate the run of `source` with its change scaled, in a run directory of its own.

    config: of the run. An interrupted evaluation resumes. Raises UserError for a run without a
    checkpoint, and for a directory in which another process works.
    """
    with DirectoryLock(folder), notices.collected() as warnings:
        _begin(source, config, factor, folder)
        rules = make_rules(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        base = base_model.load(config, rules)
        code = config.adapter.code
        tuned = earlier_run.load_onto(source, base.model.params, rules=rules, code=code)
        model = scaled(base.model, tuned, factor)

        evaluations = _Evaluations(config, rules, base, inputs.from_config(config), folder)
        before = evaluations.of_base(model, base_records)
        after = evaluations.of_scaled(model, factor)

    facts = results_json.saved_facts(source) or {}
    facts["provenance"] |= {"warnings": warnings, "scaled": {"run": source.name, "by": factor}}
    results_json.save(report(before, after, contamination.read(source)), facts, folder)


def _begin(source: Path, config: Config, factor: float, folder: Path) -> None:
    """Make the directory, with what it is of and the scores of the base, which are the run's."""
    # First: without this file the directory would be that of a run that trains.
    files.write_json(folder / RECORD, {"run": source.name, "scale": factor})
    may_change, code = run_length.MAY_CHANGE, config.own_files()
    workdir.prepare(folder, config.to_json(), config.hash(), may_change=may_change, code=code)
    shutil.copytree(source / "evals/before", folder / "evals/before", dirs_exist_ok=True)


@dataclass(frozen=True)
class _Evaluations:
    """A scaled model and its base, evaluated in a directory."""

    config: Config
    rules: Rules
    base: LoadedModel
    inputs: Inputs
    folder: Path

    def of_base(self, model: Model, base_records: Path) -> dict[str, Result]:
        """As in the run itself: of an adapter, its model with routing weights 0."""
        names = (*self.config.eval.tasks, *self.config.eval.base_tasks)
        alone = self._scorer(
            model.replace(params=self.base.model.params), base_tag(self.config), adapted=False
        )
        return self._run(names, alone, "before", base_records)

    def of_scaled(self, model: Model, factor: float) -> dict[str, Result]:
        """Results of the scaled model."""
        own, ours = jax.tree.leaves(self.base.model.params), jax.tree.leaves(model.params)
        shares_parameters = all(map(operator.is_, own, ours))
        base_params = None if shares_parameters else lambda: self.base.model.params
        tag = f"{self.config.hash()}/after x{factor:g}"
        tuned = self._scorer(model, tag, adapted=True, base_params=base_params)
        return self._run(self.config.eval.tasks, tuned, "after")

    def _scorer(
        self,
        model: Model,
        tag: str,
        *,
        adapted: bool,
        base_params: Callable[[], Params] | None = None,
    ) -> Scorer:
        return scorer.build(
            model,
            self.base.cfg,
            self.base.tokenizer,
            self.rules,
            f"{self.base.origin.fingerprint}/{tag}",
            adapted=adapted,
            base_params=base_params,
            generate_rows=self.config.eval.generate_rows,
            seed=self.config.seed.sample,
        )

    def _run(
        self, names: tuple[str, ...], model: Scorer, when: str, shared: Path | None = None
    ) -> dict[str, Result]:
        known = suite.tasks_of(self.config)
        evaluations = suite.Suite(self.config.eval, self.base.cfg.max_seq_len, known, False)
        return evaluations.run(names, model, self.inputs, self.folder / "evals" / when, shared)
