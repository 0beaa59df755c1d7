"""The rungs of a search, run one after another: what is measured on one decides who goes on.

A search's directory is that of a study (`lfl_jax.studies.running.execute`). Which runs are needed
follows from the records in it, so that a killed search ends as one that was not.
"""

import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lfl_jax.config import Config
from lfl_jax.errors import UserError
from lfl_jax.run_setup.shared import Shared
from lfl_jax.statistics.effects import Effect, Part, over_seeds_and_items
from lfl_jax.studies import arms, outcome
from lfl_jax.studies.arms import Measure
from lfl_jax.studies.grid import PlannedRun
from lfl_jax.studies.records import run_directories
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.running import execute, finished
from lfl_jax.studies.running.execute import Do, State, Study
from lfl_jax.studies.search import search
from lfl_jax.studies.search.search import Candidate, SearchConfig

# Of an evaluation, what is done on test items and so decides nothing.
TESTS = ("tasks", "base_tasks")


class Interrupted(Exception):
    """A run was stopped and saved; the same search resumes."""


@dataclass(frozen=True)
class Rung:
    """Candidates that were trained equally long.

    values: of a candidate's dev items under each seed, in the measure's unit. sign: 1 where more is
    better, else -1. clusters: of each item. dropped: why a candidate has no values.
    """

    steps: int
    seeds: tuple[int, ...]
    values: dict[Candidate, Float[np.ndarray, "S I"]]
    sign: float
    clusters: tuple[str, ...]
    dropped: dict[Candidate, str]

    def score(self, candidate: Candidate) -> Effect:
        """Its mean over seeds and dev items, with the error of both."""
        return over_seeds_and_items(Part(self.values[candidate], self.clusters))

    def ranked(self) -> list[Candidate]:
        """The best first; of equal ones, the first of the grid."""

        def loss(candidate: Candidate) -> float:
            mean = -self.sign * float(self.values[candidate].mean())
            # A model may give a right answer no probability at all.
            return mean if math.isfinite(mean) else math.inf

        return sorted(self.values, key=loss)

    def going_on(self, keep: int) -> list[Candidate]:
        """The best of every `keep` candidates."""
        return self.ranked()[: math.ceil((len(self.values) + len(self.dropped)) / keep)]

    @property
    def best(self) -> Candidate:
        """Of all."""
        return self.ranked()[0]


@dataclass(frozen=True)
class Search:
    """A search in its directory; do: how a run is done; jobs, shared: as of `execute.execute`."""

    config: SearchConfig
    folder: Path
    do: Do = execute.train_and_save
    quiet: bool = False
    jobs: int = 1
    shared: Shared = field(default_factory=Shared)

    def study(self, runs: Sequence[PlannedRun]) -> Study:
        """These runs, finished when their dev records are complete."""
        return Study(self.folder, runs, is_measured)

    def execute(self, study: Study) -> None:
        """Do what is left; raises Interrupted."""
        how = {"quiet": self.quiet, "jobs": self.jobs, "shared": self.shared}
        if not execute.execute(study, self.do, **how):
            raise Interrupted


def rungs(task: Search) -> Iterator[Rung]:
    """One rung after another, the last with every neighbour of its best candidate.

    Raises Interrupted, and UserError where no candidate of a rung has a score.
    """
    config = task.config
    chosen = search.candidates(config)
    for steps in config.steps[:-1]:
        rung = _climb(task, chosen, steps, config.seeds[:1])
        yield rung
        chosen = rung.going_on(config.keep)
    yield _last(task, chosen)


def _last(task: Search, finalists: Sequence[Candidate]) -> Rung:
    """The whole length, with all seeds."""
    config, chosen = task.config, list(finalists)
    while True:
        rung = _climb(task, chosen, config.steps[-1], config.seeds)
        # The best rate of a short run is not that of a long one: the best has to beat the rates and
        # ranks beside it at this length. As candidates are finitely many, this ends.
        missing = [c for c in search.neighbours(config, rung.best) if c not in chosen]
        if not missing:
            return rung
        chosen += missing


def _climb(
    task: Search, candidates: Sequence[Candidate], steps: int, seeds: tuple[int, ...]
) -> Rung:
    """Train these candidates, and read how they did."""
    runs = search.planned(task.config, candidates, steps, seeds)
    study = task.study(list(itertools.chain(*runs.values())))
    task.execute(study)

    scores, dropped = {}, {}
    faults = _faults(study)
    for candidate, members in runs.items():
        # A mean over fewer seeds would be compared with means over all.
        if failed := [run.name for run in members if run.name in faults]:
            dropped[candidate] = faults[failed[0]]
        else:
            scores[candidate] = [_dev_scores(study, run) for run in members]
    if not scores:
        why = next(iter(dropped.values()))
        raise UserError(f"no candidate has a score at {steps} steps: {why}")
    if steps < task.config.steps[-1]:
        _remove_checkpoints(study)
    return _rung(task.config.measure, scores, dropped, steps, seeds)


def _faults(study: Study) -> dict[str, str]:
    """{run: why it has no score}, of those that have none."""
    states, faults = study.states(), {}
    for name, end in study.ended().items():
        if states[name] is not State.FINISHED:
            faults[name] = f"{name} {end.state}: {end.reason or 'it has no dev scores'}"
    return faults


def _rung(
    measure: Measure,
    scores: dict[Candidate, list[Scores]],
    dropped: dict[Candidate, str],
    steps: int,
    seeds: tuple[int, ...],
) -> Rung:
    # Everybody's items in the order of one: candidates are compared item by item.
    reference = next(iter(scores.values()))[0]
    measured = measure.of(reference)
    values = {}
    for candidate, members in scores.items():
        values[candidate] = np.stack([arms.item_values(reference, x, measure) for x in members])
    clusters = tuple(measured.column.clusters)
    return Rung(steps, seeds, values, measured.metric.sign, clusters, dropped)


def is_measured(folder: Path, config: Config) -> bool:
    """Whether a directory holds this run with its dev scores.

    UserError where it holds another run, or scores that were measured otherwise.
    """
    before = finished.recorded(folder, config)
    if before is None or not (folder / "results.json").exists():
        return False
    recorded, wanted = before.values()["eval"], config.values()["eval"]
    changed = [x for x in sorted(wanted) if x not in TESTS and recorded[x] != wanted[x]]
    # A run that ended is not evaluated on dev items again.
    if changed:
        raise UserError(
            f"{folder} was evaluated with another eval.{changed[0]}; give the search another"
            " --workdir"
        )
    try:
        run_directories.on_dev_items(folder, config.train.steps)
    except UserError:
        return False
    return True


def _dev_scores(study: Study, run: PlannedRun) -> Scores:
    return run_directories.on_dev_items(study.run_folder(run), run.steps)


def _remove_checkpoints(study: Study) -> None:
    """Of a rung that is decided: its models are never used, and would fill the disk."""
    for run in study.runs:
        shutil.rmtree(study.run_folder(run) / "checkpoints", ignore_errors=True)


@dataclass(frozen=True)
class Tested:
    """The winner's score of a task, on test items: the base's, its own, and the change."""

    measure: Measure
    label: str
    base: float
    tuned: float
    change: Effect


def test(task: Search, winner: Candidate) -> list[Tested]:
    """The winner's runs of the last rung, evaluated on the test items; raises Interrupted."""
    config = task.config
    [runs] = search.tested(config, [winner], config.steps[-1], config.seeds).values()
    study = Study(task.folder, runs)
    task.execute(study)
    both = [run_directories.read(study.run_folder(run)) for run in runs]
    base, tuned = both[0][0], [after for _, after in both]
    return [_tested(base, tuned, name) for name in base.tasks]


def flags(task: Search, winner: Candidate) -> tuple[str, ...]:
    """Reservations about the data and the base, which stand at every figure."""
    config = task.config
    [runs] = search.planned(config, [winner], config.steps[-1], config.seeds).values()
    return outcome.flags(task.study(runs), runs)


def _tested(base: Scores, tuned: Sequence[Scores], name: str) -> Tested:
    """By the task's main metric."""
    measured = next(iter(base.tasks[name].values()))
    measure = Measure(name, measured.metric.name)
    before = arms.item_values(base, base, measure)
    after = np.stack([arms.item_values(base, one, measure) for one in tuned])
    change = over_seeds_and_items(Part(after - before, measured.column.clusters))
    means = float(before.mean()), float(after.mean())
    return Tested(measure, measured.metric.label, *means, change)
