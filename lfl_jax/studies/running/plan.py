"""What a study takes, before it runs: its runs, their hours, the differences that it can find."""

import contextlib
import dataclasses
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from lfl_jax import train
from lfl_jax.errors import UserError
from lfl_jax.run_setup.shared import Shared
from lfl_jax.statistics import calibration, variances
from lfl_jax.statistics.calibration import Design
from lfl_jax.statistics.frontier import gap
from lfl_jax.statistics.verdicts import decide
from lfl_jax.studies import outcome as study_outcome
from lfl_jax.studies.grid import ArmConfig, PlannedRun, StudyConfig
from lfl_jax.studies.running import execute, keeping, reuse, workers
from lfl_jax.studies.running.execute import State, States, Study

# Enough for a median of step times: the first step is not timed, as it compiles.
PROBE_STEPS = 6
SIMULATED = 40


@dataclass(frozen=True)
class Probe:
    """A short run, timed. fixed_seconds: of what every run does once, its evaluations above all.

    items: that forgetting was measured on. bytes_of_run: as it stays; bytes_at_end: before the
    study removes what it does not keep. cores: that it used at once, at least one.
    """

    seconds_per_step: float
    fixed_seconds: float
    items: int
    bytes_of_run: int
    bytes_at_end: int = 0
    cores: float = 1.0

    def seconds(self, steps: int) -> float:
        """Of a run of so many steps."""
        return self.fixed_seconds + steps * self.seconds_per_step


Train = Callable[[train.Run], train.Outcome]


def probes(study: Study, forgetting: Sequence[str], do: Train = train.run) -> dict[str, Probe]:
    """{arm: a short run of it, of its first task}, for every arm that trains; raises as `probe`."""
    first: dict[str, PlannedRun] = {}
    shared = Shared()
    for run in study.runs:
        if not run.source:
            first.setdefault(run.arm, run)
    return {arm: probe(study, run, forgetting, do, shared) for arm, run in first.items()}


def probe(
    study: Study, run: PlannedRun, forgetting: Sequence[str], do: Train, shared: Shared
) -> Probe:
    """Time PROBE_STEPS steps of a run of the study, and its evaluations; removed afterwards.

    forgetting: the tasks whose items are counted. shared: as runs of a study share it.
    """
    before = _evaluated(study)
    timed = _timed(study, run, forgetting, do, shared)
    # A run that evaluated the base took longer than all others will: those scores stay, and the
    # next one reads them.
    return timed if _evaluated(study) == before else _timed(study, run, forgetting, do, shared)


def _evaluated(study: Study) -> set[Path]:
    """Evaluations of bases that the study has already."""
    return set(study.base_records.glob("*.jsonl"))


def _timed(
    study: Study, run: PlannedRun, forgetting: Sequence[str], do: Train, shared: Shared
) -> Probe:
    steps = min(PROBE_STEPS, run.steps)
    short = dataclasses.replace(run.config.train, steps=steps)
    folder, started = study.folder / "probe", (time.monotonic(), time.process_time())
    shutil.rmtree(folder, ignore_errors=True)
    try:
        options = {"quiet": True, "base_records": study.base_records, "shared": shared}
        outcome = do(train.Run(dataclasses.replace(run.config, train=short), folder, **options))
        wall, cpu = time.monotonic() - started[0], time.process_time() - started[1]
        sizes = _bytes_kept_and_at_end(study, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not outcome.finished:
        raise UserError("the probe was interrupted; nothing is known of the time")
    per_step = outcome.facts["training_seconds"] / max(steps - 1, 1)
    items = sum(outcome.after[task].items for task in forgetting)
    return Probe(per_step, wall - steps * per_step, items, *sizes, max(cpu / wall, 1.0))


def _bytes_kept_and_at_end(study: Study, folder: Path) -> tuple[int, int]:
    at_end = _bytes(folder)
    keeping.keep(folder, study.retention)
    return _bytes(folder), at_end


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def detectable(design: Design, simulated: int = SIMULATED, seed: int = 0) -> float | None:
    """The median smallest difference that simulated studies of this design find at 80 % power.

    With the design's variances: `calibration.assumed` guesses them for scores between 0 and 1,
    `variances.design` takes them from runs.
    None where most of them have too few learning rates in the range that both arms learn.
    """
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(simulated):
        # The margin decides nothing here.
        with contextlib.suppress(UserError):
            effect = gap(*calibration.simulate(design, 0.0, rng)).effect
            differences.append(decide(effect, 1.0).detectable)
    return statistics.median(differences) if 2 * len(differences) > simulated else None


def show(config: StudyConfig, study: Study, console: Console, jobs: int = 1) -> None:
    """Print the runs and their state, hours, bytes, and what differences the study can find.

    jobs: processes that are to share the runs; UserError for more than there are cores.
    """
    cores = len(frozenset.union(*workers.cores_of(jobs))) or os.cpu_count() or 1
    states = study.states()
    left = _left(study, states, console)
    timed = probes(study, config.question.measures.forgetting.tasks)
    seconds = {run.name: _seconds(config, timed, run) for run in left}
    for arm in config.arms:
        members = [run for run in left if run.arm == arm.name]
        own = sum((seconds[run.name] for run in members), 0.0)
        console.print(_arm_line(arm, len(members), own, timed), highlight=False, soft_wrap=True)
    console.print(
        f"{len(study.runs)} runs, {len(left)} left: about"
        f" {_duration(seconds, jobs, cores / max(one.cores for one in timed.values()))};"
        f" {_size(study, timed, left, jobs)}",
        soft_wrap=True,
    )
    items = max(probe.items for probe in timed.values())
    console.print(_power(config, items, measured(config, study, states)), soft_wrap=True)


def _duration(seconds: Mapping[str, float], jobs: int, room: float) -> str:
    """How long runs of these seconds take; room: how many at once find cores for themselves."""
    total = sum(seconds.values(), 0.0)
    if jobs == 1:
        return f"{execute.clock(total)}, one after another"
    # No run is shared out, and runs that want the same cores take turns.
    at_once = max(min(jobs, room), 1.0)
    shared = max(total / at_once, max(seconds.values(), default=0.0))
    return f"{execute.clock(shared)} with --jobs={jobs} ({execute.clock(total)} one after another)"


def _size(study: Study, timed: Mapping[str, Probe], left: Sequence[PlannedRun], jobs: int) -> str:
    """The room that the runs take, and what they take for a moment when they end."""
    stays = sum(timed[run.arm].bytes_of_run for run in left if not run.source)
    more = jobs * max(one.bytes_at_end - one.bytes_of_run for one in timed.values())
    until_then = f", and {more / 1e6:.0f} MB until a run ends" if more > 0 else ""
    return f"{stays / 1e6:.0f} MB (checkpoints: {study.retention}){until_then}"


def _left(study: Study, states: States, console: Console) -> list[PlannedRun]:
    """The runs that are to be done; prints all, and how far each is."""
    known, left = reuse.Known.of(study.folder.parent), []
    taken: dict[str, Path] = {}
    for run in study.runs:
        state: str = states[run.name]
        if state in (State.LEFT, State.FAILED):
            other = None if run.source else _elsewhere(study, known, run, taken)
            if run.same_as and other is None:
                # Done once for both.
                other = study.run_folder(study.named(run.same_as))
            taken |= {run.name: other} if other else {}
            state = f"{state}, but finished in {other}" if other else state
            left += [] if other else [run]
        console.print(f"{run.name}  {run.config.hash()}  {state}", highlight=False, soft_wrap=True)
    return left


def _elsewhere(
    study: Study, known: reuse.Known, run: PlannedRun, taken: Mapping[str, Path]
) -> Path | None:
    """Where another study has finished the run. taken: {run: where}, of those before it."""
    starts = None
    if run.start in taken:
        starts = [taken[run.start], *reuse.origins(taken[run.start])]
    elif run.start:
        starts = reuse.origins(study.run_folder(study.named(run.start)))
    return known.find(run.config, study.is_usable, starts)


def _seconds(config: StudyConfig, timed: Mapping[str, Probe], run: PlannedRun) -> float:
    """Of a run; without training, of the evaluations of the arm whose change it alters."""
    if not run.source:
        return timed[run.arm].seconds(run.steps)
    return next(timed[arm.of].fixed_seconds for arm in config.arms if arm.name == run.arm)


def _arm_line(arm: ArmConfig, runs: int, seconds: float, timed: Mapping[str, Probe]) -> str:
    head = f"{arm.name}: {runs} runs left, about {execute.clock(seconds)}"
    if arm.of:
        return f"{head}, which alter the finished change of {arm.of}"
    probe = timed[arm.name]
    return (
        f"{head}; {probe.seconds_per_step:.2g} s a step and {probe.fixed_seconds:.3g} s beside them"
    )


def measured(config: StudyConfig, study: Study, states: States) -> Design | None:
    """The study with the variances of its finished runs; None where there are too few of them."""
    try:
        findings = study_outcome.findings(config, study, states)
        primary = findings.answers[0]
        arms = [findings.grids[name].arm for name in (primary.first, primary.second)]
        return dataclasses.replace(variances.design(*arms), seeds=len(config.seeds))
    except UserError:
        return None


def _power(config: StudyConfig, items: int, design: Design | None = None) -> str:
    """What differences the study can find, in a sentence; design: with its own variances."""
    if len(config.seeds) < 2:
        return "1 seed: no error can be estimated, and every verdict will be undecided"
    if design is not None and (smallest := detectable(design)) is not None:
        return (
            f"{len(config.seeds)} seeds: with the variances of the finished runs the study finds a"
            f" difference of {smallest:.2g} in {config.question.measures.forgetting} with 80 %"
            f" probability; the margin is {config.question.margin:g}"
        )
    rates = min(len(arm.rates) for arm in config.arms)
    learning = tuple(np.linspace(0.2, 0.9, max(rates, 2)))
    smallest = detectable(calibration.assumed(len(config.seeds), items, learning))
    if smallest is None:
        return (
            f"{rates} learning rates an arm: most such studies have fewer than 2 in the range that"
            " both arms learn, and cannot compare them there; add learning rates"
        )
    return (
        f"{len(config.seeds)} seeds, {items} items of {config.question.measures.forgetting}: a"
        f" study of scores between 0 and 1 with the simulation's variances finds a difference of"
        f" {smallest:.2g} with 80 % probability; the margin is {config.question.margin:g}"
    )
