"""The runs of a study, one after another or several at once, resumably.

A study's directory holds runs/NAME (a run directory each), base/ (the base's evaluations, which the
runs share) and runs.jsonl (a line for every run that ended, and how; of each job of a cluster, that
did a share of them, runs-N.jsonl). What a run directory holds decides what is left, so that a
process may be killed at any time.
"""

import dataclasses
import enum
import functools
import re
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.table import Table

from lfl_jax import assets, notices, train
from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.core.process import keep_compiled_programs
from lfl_jax.errors import NonFiniteLoss, UserError, was_asked_to_stop
from lfl_jax.io.progress import progress
from lfl_jax.report import finished_run, results_json
from lfl_jax.run_setup.shared import Shared
from lfl_jax.studies.grid import PlannedRun
from lfl_jax.studies.running import derived, finished, keeping, reuse, workers
from lfl_jax.studies.running.workers import Died
from lfl_jax.studies.sequences import RUNS

LOG = "runs.jsonl"
# Of a job on another machine, which does a share of the runs.
JOB_LOG = "runs-{}.jsonl"


class State(enum.StrEnum):
    """Of a run. A failed one is tried again by the next start; a diverged one would be the same."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    FAILED = "failed"
    LEFT = "left"


States: TypeAlias = Mapping[str, State]


@dataclass(frozen=True)
class Ended:
    """How a run ended: a line of runs.jsonl.

    seconds: of the process that ended it. reused: the directory of another study's run of this
    config, where there was one. ended_at: seconds since 1970; 0 in logs of earlier versions.
    """

    run: str
    config: str
    state: State
    seconds: float
    reason: str = ""
    reused: str = ""
    ended_at: float = 0.0


@dataclass(frozen=True)
class Study:
    """The runs of a study in its directory.

    is_finished: (a run's directory, its config) -> whether nothing is left to do. retention: what
    stays of the checkpoints of a run that finished, a name of `keeping.RETENTIONS`. log: the file
    that this process alone writes how runs ended to.
    """

    folder: Path
    runs: Sequence[PlannedRun]
    is_finished: Callable[[Path, Config], bool] = finished.is_finished
    retention: str = "weights"
    log: str = LOG

    def run_folder(self, run: PlannedRun) -> Path:
        """The run's directory."""
        return self.folder / RUNS / run.name

    def named(self, name: str) -> PlannedRun:
        """The run of a name."""
        return next(run for run in self.runs if run.name == name)

    @property
    def base_records(self) -> Path:
        """Where runs share the evaluations of their base."""
        return self.folder / "base"

    def is_usable(self, folder: Path, config: Config) -> bool:
        """Whether a run directory, of any study, has all that this one has of a finished run."""
        return self.is_finished(folder, config) and keeping.holds(folder, self.retention)

    # Kept: the log is read after every run, and a hash is of a whole config.
    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """{name: the hash of the run's config}."""
        return {run.name: run.config.hash() for run in self.runs}

    def ended(self) -> dict[str, Ended]:
        """{name: how the run ended last}, of the runs as they are configured now."""
        logs = [self.folder / LOG, *sorted(self.folder.glob(JOB_LOG.format("*")))]
        lines = [line for log in logs for line in files.read_jsonl(log)]
        read = [Ended(**line | {"state": State(line["state"])}) for line in lines]
        read = [end for end in read if self.hashes.get(end.run) == end.config]
        # Several processes wrote; lines of one log without a time stay in their order.
        return {end.run: end for end in sorted(read, key=lambda end: end.ended_at)}

    def states(self, runs: Sequence[PlannedRun] | None = None) -> States:
        """{name: state} by what is on disk: the records of these runs are read; None: of all.

        Raises UserError for a run directory of another config: it belongs to another study.
        """
        ended, runs = self.ended(), self.runs if runs is None else runs
        return {run.name: self._state(run, ended.get(run.name)) for run in runs}

    def _state(self, run: PlannedRun, ended: Ended | None) -> State:
        if self.is_finished(self.run_folder(run), run.config):
            return State.FINISHED
        if ended and ended.state in (State.DIVERGED, State.FAILED):
            return ended.state
        return State.LEFT


# (config, its directory, the folder of the base's evaluations, what runs of the process have in
# common) -> whether it ended; False for a run that was interrupted and saved.
Do = Callable[[Config, Path, Path, Shared], bool]


def train_and_save(config: Config, folder: Path, base_records: Path, shared: Shared) -> bool:
    """A run as `python -m lfl_jax.main` does it, without pictures; results.json is written last."""
    with notices.collected() as warnings:
        request = train.Run(config, folder, quiet=True, base_records=base_records, shared=shared)
        outcome = train.run(request)
    if not outcome.finished:
        return False
    results_json.save(*finished_run.paired(outcome, warnings, folder), folder)
    finished_run.send(config, outcome.before, outcome.after, folder)
    return True


def execute(
    study: Study,
    do: Do = train_and_save,
    only: str = "",
    *,
    quiet: bool = False,
    jobs: int = 1,
    shared: Shared | None = None,
) -> bool:
    """Do what is left, in order; False where it was interrupted, and the same call resumes.

    only: a regular expression that the names of runs have to match somewhere. jobs: processes that
    share the runs and the cores; `do` then has to be picklable, and the results are the same.
    shared: what earlier runs of this process left for these, which share it in any case. A run that
    fails is recorded with its reason, and the others go on. Raises UserError for an expression
    that matches nothing, and for more jobs than cores.
    """
    chosen = select(study.runs, only)
    return execute_these(study, chosen, do, quiet=quiet, jobs=jobs, shared=shared)


def execute_these(
    study: Study,
    chosen: Sequence[PlannedRun],
    do: Do = train_and_save,
    *,
    quiet: bool = False,
    jobs: int = 1,
    shared: Shared | None = None,
) -> bool:
    """`execute` for runs that are chosen already."""
    states = study.states(chosen)
    left = left_of(chosen, states)
    done = len(chosen) - len(left)
    # An earlier start may have ended between a run's end and this.
    for run in (run for run in chosen if states[run.name] is State.FINISHED):
        keeping.keep(study.run_folder(run), study.retention)
    study.folder.mkdir(parents=True, exist_ok=True)
    with progress(len(chosen), "study", done=done, visible=not quiet) as advance:
        for ended in _results(study, left, do, jobs, shared or Shared()):
            left = [run for run in left if run.name != ended.run]
            files.append_jsonl(study.folder / study.log, [dataclasses.asdict(ended)])
            if not quiet:
                say(ended)
            seconds = remaining_seconds(study, left)
            advance(1, left=clock(None if seconds is None else seconds / jobs))
    # The last run may have had no step left to stop at.
    return not left and not was_asked_to_stop()


def _results(
    study: Study, left: Sequence[PlannedRun], do: Do, jobs: int, shared: Shared
) -> Iterator[Ended]:
    """How runs ended, as they do; fewer than were left where they were interrupted."""
    rest = list(left)
    # A run that began here is resumed. Without any other run nothing is searched for.
    if fresh := [run for run in left if not run.source and not study.run_folder(run).exists()]:
        known = reuse.Known.of(study.folder.parent)
        for run in fresh:
            starts = _starts_elsewhere(study, run)
            if origin := known.take(run.config, study.run_folder(run), study.is_usable, starts):
                rest.remove(run)
                keeping.keep(study.run_folder(run), study.retention)
                yield _ended(study, run, State.FINISHED, reused=str(origin))
    if jobs == 1:
        for run in rest:
            ended = None if was_asked_to_stop() else _attempt(study, do, shared, run)
            if ended is None:
                return
            yield ended
        return
    # Each process has a Shared of its own, for all of its runs.
    work = functools.partial(_work, study, do, shared)
    # This process writes the log alone: two would write into one another's lines.
    for run, ended in workers.share(rest, work, jobs, _is_ready):
        if isinstance(ended, Died):
            yield _ended(study, run, State.FAILED, reason=str(ended))
        elif ended is not None:
            yield ended


def _is_ready(run: PlannedRun, unfinished: Sequence[PlannedRun]) -> bool:
    return run.needs.isdisjoint(other.name for other in unfinished)


def _starts_elsewhere(study: Study, run: PlannedRun) -> list[Path] | None:
    """Where other studies have the run that it starts from, if that was taken from them."""
    return reuse.origins(study.folder / RUNS / run.start) if run.start else None


def _ended(study: Study, run: PlannedRun, state: State, seconds: float = 0.0, **why: str) -> Ended:
    return Ended(run.name, study.hashes[run.name], state, seconds, **why, ended_at=time.time())


def _work(study: Study, do: Do, shared: Shared, run: PlannedRun) -> Ended | None:
    """`_attempt` in a process of its own."""
    keep_compiled_programs(assets.writable("compiled"))
    return _attempt(study, do, shared, run)


def say(ended: Ended) -> None:
    """Print how a run ended, above the bar where there is one: a log of the night."""
    line = f"{ended.run} {ended.state} in {clock(ended.seconds)}"
    if ended.reused:
        line = f"{ended.run} reused: {ended.reused}"
    elif ended.reason:
        line += f": {ended.reason}"
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def left_of(chosen: Iterable[PlannedRun], states: States) -> list[PlannedRun]:
    """The runs that a start does: those that nobody did yet, and those that failed."""
    return [run for run in chosen if states[run.name] in (State.LEFT, State.FAILED)]


def select(runs: Sequence[PlannedRun], only: str) -> list[PlannedRun]:
    """The runs whose names match; UserError where none does."""
    try:
        chosen = [run for run in runs if re.search(only, run.name)]
    except re.error as error:
        raise UserError(f"--only={only}: not a regular expression ({error})") from None
    if not chosen:
        raise UserError(f"--only={only} matches none of the runs, such as {runs[0].name}")
    return chosen


def _attempt(study: Study, do: Do, shared: Shared, run: PlannedRun) -> Ended | None:
    """How a run ended; None where it was interrupted."""
    folder, started = study.run_folder(run), time.monotonic()
    if (same := _finished_copy(study, run)) is not None:
        return _ended(study, run, State.FINISHED, reused=str(same))
    state, reason = State.FINISHED, ""
    try:
        _require_start(study, run)
        # Said of a run that is done again, and no fault of it.
        if lost := finished.prepare_again(folder, run.config):
            reason = f"done again, as {lost}"
        if run.source:
            _derive(study, run, shared)
        elif not do(run.config, folder, study.base_records, shared):
            return None
        keeping.keep(folder, study.retention)
    except NonFiniteLoss as error:
        state, reason = State.DIVERGED, str(error)
    except UserError as error:
        state, reason = State.FAILED, str(error)
    # One run's fault is no reason to lose a night: it is recorded, with its traceback beside it.
    except Exception as error:
        state, reason = State.FAILED, f"{type(error).__name__}: {error}"
        files.write_text(folder / "traceback.txt", traceback.format_exc())
    seconds = time.monotonic() - started
    return _ended(study, run, state, seconds, reason=reason.replace("\n", " "))


def _finished_copy(study: Study, run: PlannedRun) -> Path | None:
    """The run of this study that this one is now a copy of; None where it is to be done."""
    if not run.same_as or study.run_folder(run).exists():
        return None
    same = study.folder / RUNS / run.same_as
    if not study.is_usable(same, run.config):
        return None
    reuse.copy(same, study.run_folder(run))
    return same


def _require_start(study: Study, run: PlannedRun) -> None:
    """UserError where the run that this one starts from has not finished, and why."""
    if not run.start:
        return
    before = study.named(run.start)
    if not study.is_finished(study.run_folder(before), before.config):
        ended = study.ended().get(before.name)
        how = f"{ended.state}: {ended.reason}" if ended and ended.reason else "has not finished"
        raise UserError(f"not run: {before.name}, which it starts from, {how}")


def _derive(study: Study, run: PlannedRun, shared: Shared) -> None:
    """Evaluate a run without training; UserError where the run that it needs has not finished."""
    source = study.folder / RUNS / run.source
    if not study.is_finished(source, run.config):
        raise UserError(f"{run.source}, whose change it alters, has not finished")
    places = study.run_folder(run), study.base_records
    derived.evaluate(source, run.config, run.point, *places, shared)


def remaining_seconds(study: Study, left: Iterable[PlannedRun]) -> float | None:
    """Of runs that are left, by those that finished: of the same arm and length, else by steps.

    None before any has finished.
    """
    finished = [end for end in study.ended().values() if end.state is State.FINISHED]
    # One that was reused says nothing of how long a run takes.
    finished = [end for end in finished if not end.reused]
    if not finished:
        return None
    runs = {run.name: run for run in study.runs}
    alike: dict[tuple[str, int], list[float]] = {}
    per_step = []
    for end in finished:
        run = runs[end.run]
        alike.setdefault((run.arm, run.steps), []).append(end.seconds)
        # Without training the number of steps takes no time.
        per_step += [] if run.source else [end.seconds / run.steps]
    # Medians: the first run of a shape compiles, and does the evaluations that the others read.
    step = statistics.median(per_step or [0.0])
    medians = {cell: statistics.median(seconds) for cell, seconds in alike.items()}
    return sum((medians.get((run.arm, run.steps), run.steps * step) for run in left), 0.0)


def clock(seconds: float | None) -> str:
    """A duration in words: "41 s", "12 min", "3.5 h"; "?" where it is not known."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def show(study: Study, states: States, console: Console) -> None:
    """Print a table of what is done and what is left, by arm, with the reasons of failures."""
    table = Table(box=None)
    table.add_column("arm")
    for column in (*State, "time left"):
        table.add_column(str(column), justify="right")
    for arm in dict.fromkeys(run.arm for run in study.runs):
        members = [run for run in study.runs if run.arm == arm]
        counts = Counter(states[run.name] for run in members)
        left = [run for run in members if states[run.name] is State.LEFT]
        numbers = [str(counts[state]) for state in State]
        table.add_row(arm, *numbers, clock(remaining_seconds(study, left)))
    console.print(table)
    for name, end in study.ended().items():
        if states[name] in (State.DIVERGED, State.FAILED):
            console.print(f"{name} {end.state}: {end.reason}", markup=False, soft_wrap=True)
