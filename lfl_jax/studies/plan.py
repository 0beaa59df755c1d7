"""What a study takes, before it runs: its runs, their hours, the differences that it can find."""

import contextlib
import dataclasses
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from lfl_jax import train
from lfl_jax.errors import UserError
from lfl_jax.statistics import calibration
from lfl_jax.statistics.calibration import Design
from lfl_jax.statistics.frontier import gap
from lfl_jax.statistics.verdicts import decide
from lfl_jax.studies import execute
from lfl_jax.studies.execute import State, Study
from lfl_jax.studies.grid import StudyConfig

# Enough for a median of step times: the first step is not timed, as it compiles.
PROBE_STEPS = 6
SIMULATED = 40


@dataclass(frozen=True)
class Probe:
    """A short run, timed. fixed_seconds: of what every run does once, its evaluations above all.

    items: that forgetting was measured on.
    """

    seconds_per_step: float
    fixed_seconds: float
    items: int
    bytes_of_run: int

    def seconds(self, steps: int) -> float:
        """Of a run of so many steps."""
        return self.fixed_seconds + steps * self.seconds_per_step


Train = Callable[[train.Run], train.Outcome]


def probe(study: Study, forgetting: str, do: Train = train.run) -> Probe:
    """Time PROBE_STEPS steps of the study's first run, and its evaluations; removed afterwards.

    forgetting: the task whose items are counted.
    """
    first = study.runs[0].config
    steps = min(PROBE_STEPS, study.runs[0].steps)
    short = dataclasses.replace(first, train=dataclasses.replace(first.train, steps=steps))
    folder, started = study.folder / "probe", time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        outcome = do(train.Run(short, folder, quiet=True, base_records=study.base_records))
        wall, size = time.monotonic() - started, _bytes(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not outcome.finished:
        raise UserError("the probe was interrupted; nothing is known of the time")
    per_step = outcome.facts["training_seconds"] / max(steps - 1, 1)
    # The base's evaluations are done once for all runs, so this is an upper bound for the others.
    return Probe(per_step, wall - steps * per_step, outcome.after[forgetting].items, size)


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


def show(config: StudyConfig, study: Study, console: Console) -> None:
    """Print the runs and their state, hours, bytes, and what differences the study can find."""
    states = study.states()
    for run in study.runs:
        console.print(f"{run.name}  {run.config.hash()}  {states[run.name]}", highlight=False)
    timed = probe(study, config.question.measures.forgetting.task)
    left = [run for run in study.runs if states[run.name] not in (State.FINISHED, State.DIVERGED)]
    seconds = sum(timed.seconds(run.steps) for run in left)
    console.print(
        f"{len(study.runs)} runs, {len(left)} left: about {execute.clock(seconds)}, by a run of"
        f" {study.runs[0].arm} with {timed.seconds_per_step:.2g} s a step and"
        f" {timed.fixed_seconds:.3g} s beside them; {len(left) * timed.bytes_of_run / 1e6:.0f} MB",
        soft_wrap=True,
    )
    console.print(_power(config, timed.items), soft_wrap=True)


def _power(config: StudyConfig, items: int) -> str:
    """What differences the study can find, in a sentence."""
    if len(config.seeds) < 2:
        return "1 seed: no error can be estimated, and every verdict will be undecided"
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
