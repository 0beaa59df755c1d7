"""What a job of a cluster does of a study: a share of its runs, one after another.

Shares are dealt out when the jobs are submitted, and nobody schedules anything after that: a run
belongs to one job, which writes how its runs ended to a log of its own. A job that is stopped saves
first and is requeued; what its run directories hold says what is left.
"""

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from lfl_jax import assets
from lfl_jax.config import Config
from lfl_jax.core.process import keep_compiled_programs
from lfl_jax.run_setup.shared import Shared
from lfl_jax.studies.grid import PlannedRun, StudyConfig
from lfl_jax.studies.running import execute, measuring
from lfl_jax.studies.running.execute import State, Study

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


def deal(runs: Sequence[PlannedRun], count: int) -> list[list[PlannedRun]]:
    """The runs in so many shares or fewer, none empty; runs that need one another stay together."""
    # A run comes after those that it needs, so that these have their group, named by a member.
    group_of: dict[str, str] = {}
    for run in runs:
        joined = {group_of[name] for name in run.needs if name in group_of}
        group_of[run.name] = run.name
        group_of |= {name: run.name for name in group_of if group_of[name] in joined}
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(group_of[run.name], []).append(run)

    # By number: how long a run takes is not known before any has finished.
    shares: list[list[PlannedRun]] = [[] for _ in range(count)]
    for group in groups.values():
        min(shares, key=len).extend(group)
    return [share for share in shares if share]


@dataclass(frozen=True)
class Share:
    """A job: runs of the study that it does and measures; `study` has a log of its own.

    submitit pickles it, calls it, and calls `checkpoint` for what a requeued job calls.
    """

    config: StudyConfig
    study: Study
    names: tuple[str, ...]
    do: execute.Do = execute.train_and_save

    def __call__(self) -> bool:
        """Whether all of its runs ended; False where it was stopped."""
        keep_compiled_programs(assets.writable("compiled"))
        with _requeued_after_saving() as requeue:
            finished = self._finish(requeue)
        if requeue.is_wanted and not finished:
            requeue.now()
        return finished

    def checkpoint(self) -> "DelayedSubmission":
        """The same job, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _finish(self, requeue: "_Requeue") -> bool:
        runs = [self.study.named(name) for name in self.names]

        def do(config: Config, folder: Path, base_records: Path, shared: Shared) -> bool:
            # The signal may have come when the run before had no step left to stop at.
            return not requeue.is_wanted and self.do(config, folder, base_records, shared)

        if not execute.execute_these(self.study, runs, do):
            return False
        # Runs of other jobs count as left, so that each measures its own.
        states = dict.fromkeys((run.name for run in self.study.runs), State.LEFT)
        states |= self.study.states(runs)
        return measuring.complete(self.config, self.study, states)


@dataclass
class _Requeue:
    """Whether the cluster wants its machine back, and what then requeues this job."""

    now: Callable[[], None] = field(default=lambda: None)
    is_wanted: bool = False


@contextlib.contextmanager
def _requeued_after_saving() -> Iterator[_Requeue]:
    """Inside, submitit's signal lets a run in training save before the job is requeued.

    submitit's own handler would requeue the job and end this process at once, in the middle of a
    step. Where nothing trains there is nothing to save, and it does.
    """
    from submitit import JobEnvironment

    number = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
    theirs, idle = signal.getsignal(number), signal.getsignal(signal.SIGTERM)
    requeue = _Requeue()
    if not callable(theirs):  # not a job of submitit
        yield requeue
        return

    def handle(number: int, frame: FrameType | None) -> None:
        # A run in training has a handler of its own for SIGTERM, which saves (io.interrupt).
        if signal.getsignal(signal.SIGTERM) is idle:
            theirs(number, frame)
        else:
            requeue.is_wanted = True
            signal.raise_signal(signal.SIGTERM)

    requeue.now = lambda: theirs(number, None)
    signal.signal(number, handle)
    try:
        yield requeue
    finally:
        signal.signal(number, theirs)


def jobs_of(
    config: StudyConfig, study: Study, dealt: Sequence[Sequence[PlannedRun]]
) -> list[Share]:
    """A job for each share, with a log of its own."""
    jobs = []
    for index, runs in enumerate(dealt):
        own = dataclasses.replace(study, log=execute.JOB_LOG.format(index))
        jobs.append(Share(config, own, tuple(run.name for run in runs)))
    return jobs
