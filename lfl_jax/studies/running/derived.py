"""A finished run with its change altered, evaluated without training again.

The change is scaled, truncated, taken out of a part of the model, or its intruder dimensions are
scaled (`analysis.interventions`): each trades what was learned for what was forgotten. Or there is
no change at all, and the base is asked about the target after worked examples: what prompting alone
teaches, and it forgets nothing.
"""

import dataclasses
import math
import operator
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax

from lfl_jax import notices
from lfl_jax.analysis import contamination
from lfl_jax.analysis.altered_model import Altered
from lfl_jax.analysis.interventions import INTERVENTIONS
from lfl_jax.analysis.intruder_scaling import read_components, write_components
from lfl_jax.analysis.intruders import EPSILON, TOP_K
from lfl_jax.config import Config
from lfl_jax.config.sections import name_and_items
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
from lfl_jax.run_setup.shared import Shared
from lfl_jax.studies.points import Point, Value
from lfl_jax.train_setup import base_tag

# In the directory: whose change, and what was done to it.
RECORD = "derived.json"
# Tokens by which rows grow for worked examples.
BLOCK = 64
# In the directory of the run: its intruder dimensions.
COMPONENTS = f"intruders_{TOP_K}_{EPSILON:g}.npz"


def evaluate(
    source: Path,
    config: Config,
    point: Point,
    folder: Path,
    base_records: Path,
    shared: Shared,
) -> None:
    """Evaluate the run of `source` with its change altered, in a run directory of its own.

    config: of the run. shared: the base in memory, where another run of this process has it. An
    interrupted evaluation resumes. Raises UserError for a run without a checkpoint, and for a
    directory in which another process works.
    """
    with DirectoryLock(folder), notices.collected() as warnings:
        _begin(source, config, point, folder)
        rules = make_rules(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        base = base_model.load(config, rules, shared, trains=False)
        code = config.adapter.code
        tuned = earlier_run.load_onto(source, base.model.params, rules=rules, code=code)
        altered = altered_model(source, base.model, tuned, point)

        evaluations = _Evaluations(config, rules, base, inputs.from_config(config), folder)
        before = evaluations.of_base(altered.model, base_records)
        if point.is_prompt:
            after = evaluations.of_prompted_base(altered.model, int(point.value), base_records)
        else:
            after = evaluations.of_altered(altered.model, point)

    facts = results_json.saved_facts(source) or {}
    facts["provenance"] |= {"warnings": warnings, "derived": _record(source, point) | altered.facts}
    results_json.save(report(before, after, contamination.read(source)), facts, folder)


def altered_model(source: Path, base: Model, tuned: Model, point: Point) -> Altered:
    """The model of a point; what all points of its curve need is computed by the first of them."""
    entry, shared = INTERVENTIONS[point.intervention], {}
    if entry.shared is not None:
        file = source / COMPONENTS
        # A run that was done again has other ones.
        if not file.exists() or file.stat().st_mtime < (source / "results.json").stat().st_mtime:
            write_components(entry.shared(base, tuned), file)
        shared = read_components(file)
    return entry.apply(base, tuned, point.value, shared)


def _record(source: Path, point: Point) -> dict[str, Value]:
    return {"run": source.name, **point._asdict()}


def _begin(source: Path, config: Config, point: Point, folder: Path) -> None:
    """Make the directory, with what it is of and the scores of the base, which are the run's."""
    # First: without this file the directory would be that of a run that trains.
    files.write_json(folder / RECORD, _record(source, point))
    may_change, code = run_length.MAY_CHANGE, config.own_files()
    workdir.prepare(folder, config.to_json(), config.hash(), may_change=may_change, code=code)
    shutil.copytree(source / "evals/before", folder / "evals/before", dirs_exist_ok=True)


@dataclass(frozen=True)
class _Evaluations:
    """An altered model and its base, evaluated in a directory."""

    config: Config
    rules: Rules
    base: LoadedModel
    inputs: Inputs
    folder: Path

    def of_base(self, model: Model, base_records: Path) -> dict[str, Result]:
        """As in the run itself: of an adapter, its model with routing weights 0."""
        names = (*self.config.eval.tasks, *self.config.eval.base_tasks)
        return self._run(names, self._base_scorer(model), "before", base_records)

    def of_prompted_base(self, model: Model, shots: int, base_records: Path) -> dict[str, Result]:
        """The base's results after worked examples, and its own in tasks that take none.

        All seeds that draw the same examples, and all tasks without any, share the records.
        """
        names, scorer = self.config.eval.tasks, self._base_scorer(model)
        kinds = suite.tasks_of(self.config, training=False)
        takes = [n for n in names if kinds[name_and_items(n)[0]].takes_shots and shots]
        others = tuple(name for name in names if name not in takes)
        results = self._run(others, scorer, "after", base_records)
        if takes:
            results |= self._with_shots(shots)._run(tuple(takes), scorer, "after", base_records)
        return results

    def _with_shots(self, shots: int) -> "_Evaluations":
        """The same with worked examples before questions, and rows that have room for them."""
        asked = inputs.after_shots(self.inputs, self.config, shots)
        e, added = self.config.eval, len(self.base.tokenizer.encode(asked.worked()))
        # Whole blocks, so that seeds with other examples share a compiled program.
        length = e.seq_len + BLOCK * math.ceil(added / BLOCK)
        length = min(length, self.base.cfg.max_seq_len)
        config = dataclasses.replace(self.config, eval=dataclasses.replace(e, seq_len=length))
        return dataclasses.replace(self, config=config, inputs=asked)

    def _base_scorer(self, model: Model) -> Scorer:
        return self._scorer(
            model.replace(params=self.base.model.params), base_tag(self.config), adapted=False
        )

    def of_altered(self, model: Model, point: Point) -> dict[str, Result]:
        """Results of the altered model."""
        own, ours = jax.tree.leaves(self.base.model.params), jax.tree.leaves(model.params)
        shares_parameters = all(map(operator.is_, own, ours))
        base_params = None if shares_parameters else lambda: self.base.model.params
        tag = f"{self.config.hash()}/after {point.mark}"
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
