"""Weights and starts of a study's finished runs, each measured once, into files of its directory.

weights.jsonl     norms, ranks and intruder dimensions of every weight's change, from the checkpoint
curvature.json    the top Hessian eigenvalue at step 0
unigrams.json     how far the target's tokens are from those of the source text

A run without training has its source's change as it was altered, and its source's start. What is
there already, from an earlier start of the study or from the study that did the run, is not
measured again.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from lfl_jax import notices
from lfl_jax.analysis import measure_weights, run_weights
from lfl_jax.core import files
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.errors import UserError
from lfl_jax.io.progress import progress
from lfl_jax.run_setup import base_model, earlier_run, run_length
from lfl_jax.run_setup.shared import Shared
from lfl_jax.studies.grid import PlannedRun, StudyConfig
from lfl_jax.studies.records.run_measures import CURVATURE, UNIGRAMS
from lfl_jax.studies.running import derived, step_zero, target_distance, workers
from lfl_jax.studies.running.execute import State, States, Study
from lfl_jax.studies.running.workers import Died
from lfl_jax.studies.sequences import RUNS


def complete(
    config: StudyConfig,
    study: Study,
    states: States,
    *,
    jobs: int = 1,
    show_progress: bool = False,
) -> bool:
    """Measure what the study asks for and its finished runs have not got; False if interrupted.

    jobs: processes that share the runs, as in `execute`. A run that cannot be measured, such as one
    whose adapter has no dW, is warned of.
    """
    finished = [run for run in study.runs if states[run.name] is State.FINISHED]
    left = [run for run in finished if _is_left(config, study, run)]
    done = len(finished) - len(left)
    with progress(len(finished), "weights", done=done, visible=show_progress) as advance:
        for problems in _results(_Measurer(config, study), left, jobs):
            if problems is None:
                return False
            for problem in filter(None, problems):
                notices.warn(problem)
            advance(len(problems))
    return True


def _results(
    measurer: "_Measurer", left: Sequence[PlannedRun], jobs: int
) -> Iterator[Sequence[str] | None]:
    """Of runs that ended, why each could not be measured, "" where it was; None where stopped."""
    if jobs == 1 or len(left) < 2:
        for run in left:
            yield [measurer.problem(run)]
        return
    # Runs with one start stay together: the first of them measures its curvature for all.
    groups: dict[tuple[str, int], list[PlannedRun]] = {}
    for run in left:
        groups.setdefault((measurer.trained_arm(run), run.seed), []).append(run)
    for group, problems in workers.share(list(groups.values()), measurer.problems, jobs):
        died = isinstance(problems, Died)
        yield [f"{run.name} is not measured: {problems}" for run in group] if died else problems


def _is_left(config: StudyConfig, study: Study, run: PlannedRun) -> bool:
    folder = study.run_folder(run)
    if config.unigrams and not (folder / UNIGRAMS).exists():
        return True
    if config.curvature > 0 and not _has_curvature(folder, config.curvature):
        return True
    step = run_length.last_checkpoint(_trained(study, run)) if config.weights else 0
    return config.weights and not run_weights.is_complete(folder, step)


def _trained(study: Study, run: PlannedRun) -> Path:
    """The directory with the run's checkpoint."""
    return study.folder / RUNS / run.source if run.source else study.run_folder(run)


def _has_curvature(folder: Path, microbatches: int) -> bool:
    file = folder / CURVATURE
    return file.exists() and files.read_json_object(file)["microbatches"] == microbatches


@dataclasses.dataclass(frozen=True)
class _Measurer:
    """Measures runs, one after another; shared: the base, which most of them have in common."""

    config: StudyConfig
    study: Study
    shared: Shared = dataclasses.field(default_factory=Shared)

    def problems(self, runs: Sequence[PlannedRun]) -> list[str]:
        """Measure runs; why each could not be measured, "" where it was."""
        return list(map(self.problem, runs))

    def problem(self, run: PlannedRun) -> str:
        """Measure a run; why it could not be measured, or ""."""
        try:
            self.measure(run)
        except UserError as error:
            return f"{run.name} is not measured: {error}"
        return ""

    def measure(self, run: PlannedRun) -> None:
        """Write what the study asks for into the run's directory."""
        config = run.config
        rules = make_rules(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        if self.config.weights:
            self._weights(run, rules)
        if self.config.curvature:
            self._curvature(run, rules)
        if self.config.unigrams:
            apart = target_distance.measure(run.config, self.shared)
            file = self.study.run_folder(run) / UNIGRAMS
            files.write_json(file, dataclasses.asdict(apart))

    def _weights(self, run: PlannedRun, rules: Rules) -> None:
        folder, source = self.study.run_folder(run), _trained(self.study, run)
        step = run_length.last_checkpoint(source)
        if run_weights.is_complete(folder, step):
            return
        base = base_model.load(run.config, rules, self.shared, trains=False).model
        code = run.config.adapter.code
        tuned = earlier_run.load_onto(source, base.params, rules=rules, code=code)
        if run.source:
            tuned = derived.altered_model(source, base, tuned, run.point).model
        measure_weights.measure(folder, base.params, tuned, step)

    def _curvature(self, run: PlannedRun, rules: Rules) -> None:
        folder, count = self.study.run_folder(run), self.config.curvature
        if _has_curvature(folder, count):
            return
        if (other := self._with_same_start(run)) is not None:
            shutil.copyfile(other / CURVATURE, folder / CURVATURE)
            return
        base = base_model.load(run.config, rules, self.shared, trains=False)
        top = step_zero.measure(run.config, base, _trained(self.study, run), count, rules)
        about = {"start": step_zero.key(run.config), "microbatches": count}
        files.write_json(folder / CURVATURE, about | dataclasses.asdict(top))

    def _with_same_start(self, run: PlannedRun) -> Path | None:
        """The directory of a run whose measured start is this run's."""
        start = step_zero.key(run.config)
        for other in self._alike(run):
            folder = self.study.run_folder(other)
            is_measured = _has_curvature(folder, self.config.curvature)
            if is_measured and files.read_json_object(folder / CURVATURE)["start"] == start:
                return folder
        return None

    def _alike(self, run: PlannedRun) -> Sequence[PlannedRun]:
        """Runs that may start as this one does."""
        arms = {run.arm, self.trained_arm(run)}
        return [other for other in self.study.runs if other.seed == run.seed and other.arm in arms]

    def trained_arm(self, run: PlannedRun) -> str:
        """The run's arm, or the one whose runs its own alters."""
        return next(arm.of or arm.name for arm in self.config.arms if arm.name == run.arm)
