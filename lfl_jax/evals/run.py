"""Evaluate a model on a task, resumably. The task declares what is measured; this measures it."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lfl_jax import notices
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.evals import records, sandbox
from lfl_jax.evals.methods import WORK, Done, Workload, shapes
from lfl_jax.evals.metrics import Measured, Record
from lfl_jax.evals.records import RecordFile
from lfl_jax.evals.settings import Settings
from lfl_jax.evals.stats import Estimate
from lfl_jax.evals.task import Execute, Inputs, Item, Scorer, Task

# Spaces, digits, capitals, accents, an emoji, a newline: tokenizers differ on these.
PROBE = "Question: Zoë bought  1,234 pears.\n\tHow many—exactly? 🍐 #### 1234"


T = TypeVar("T")


class Interrupted(Exception):
    """An evaluation was asked to stop, between two batches. Its records so far are on disk."""


@dataclass(frozen=True)
class Result:
    """A finished evaluation of one task.

    measured: {metric: its values over the items and their mean}, in the order of declaration, the
    main metric first. records: the file of per-item records.
    """

    label: str
    items: int
    measured: dict[str, Measured]
    settings: Record
    plan: Record
    records: str

    @classmethod
    def of(cls, task: Task, file: RecordFile) -> "Result":
        """The metrics over a file's records; UserError where no record defines one."""
        measured = task.measure(file.records)
        if not measured:
            raise UserError(
                f"evaluation {task.name}: no items to average: there are none, or none with a"
                " scored token"
            )
        items, plan = len(file.records), file.plan or {}
        return cls(task.label, items, measured, file.settings, plan, str(file.path))

    def without(self, ids: Collection[str]) -> "Result":
        """Over the items whose ids are not among these; metrics that no other item defines go."""
        fewer = {name: measured.without(ids) for name, measured in self.measured.items()}
        measured = {name: one for name, one in fewer.items() if one is not None}
        return replace(self, measured=measured)

    @property
    def metrics(self) -> dict[str, Estimate]:
        """{metric: its mean and error}."""
        return {name: measured.estimate for name, measured in self.measured.items()}

    @property
    def main(self) -> Measured:
        """The task's first metric."""
        return next(iter(self.measured.values()))


# What one process does without anybody watching: the defaults of `Evaluation.run`.
def _no_progress(task: str, done: int, total: int) -> None:
    pass


def _one_process(value: T) -> T:
    return value


def never() -> bool:
    """Nobody asks an evaluation to stop."""
    return False


@dataclass(frozen=True)
class Evaluation:
    """One task on one model. limit: evaluate so many of the task's items; 0 = all."""

    task: Task
    scorer: Scorer
    inputs: Inputs
    settings: Settings
    limit: int = 0

    def run(
        self,
        folder: Path,
        *,
        progress: Callable[[str, int, int], None] = _no_progress,
        agree: Callable[[Any], Any] = _one_process,
        writer: bool = True,
        shared: Path | None = None,
        stopped: Callable[[], bool] = never,
    ) -> Result:
        """Evaluate the items, with records in `folder`/<task>.jsonl.

        An interrupted evaluation resumes where it stopped, and a finished one is read back, as long
        as its settings (task, items, model tag, tokenizer, shapes) are the same.
        progress(task, batches done, batches) is called before the first batch and after every one.
        With several processes, one is the writer, and `agree` returns its value to all. shared: a
        folder in which finished evaluations of these settings are found and left; of several
        runs that ask for one at once, one computes it. stopped: asked after every batch, the same
        on all processes; raises Interrupted. Raises UserError for a task that cannot run here, or
        without items, and on a process whose items are not the writer's.
        """
        self.task.check()
        load = self._workload()
        settings = self._describe(load.items)
        path = folder / f"{self.task.name}.jsonl"
        finished = shared and shared / f"{self.task.name}-{records.digest(settings)}.jsonl"
        with _alone(finished if writer else None):
            if writer and finished:
                records.copy_new(finished, path)
            file = RecordFile.resume(path, settings) if writer else None

            # The writer's records decide, on all processes, which batches are skipped.
            recorded = {record["id"] for record in file.records} if file else set()
            done = np.array([item.id in recorded for item in load.items])
            # A process with other items would wait forever for batches that never come.
            writers, done = agree((settings, done))
            _require_same(self.task.name, settings, writers)

            # A finished evaluation is not planned again, which would tokenise every item.
            if not done.all():
                self._compute(load, done, file, progress, stopped)
            if writer and finished:
                records.copy_new(path, finished)
        if file:
            self._warn_of_truncation(file)
        return agree(Result.of(self.task, file) if file else None)

    def _workload(self) -> Workload:
        every_item = self.inputs.items_of(self.task)
        # Kinds of items alternate in an interleaved task; every n-th might be of one kind.
        how = "first" if self.task.interleaved else self.settings.pick
        indices = pick(len(every_item), self.limit, how)
        items = [every_item[i] for i in indices]
        return Workload(self.task, self.scorer, self.settings, items, indices)

    def _compute(
        self,
        load: Workload,
        done: Done,
        file: RecordFile | None,
        progress: Callable[[str, int, int], None],
        stopped: Callable[[], bool],
    ) -> None:
        """Compute the batches that are left, and write their records where there is a file."""
        work = WORK[type(self.task.method)](load)
        if file:
            # Before a program of the model runs.
            self._announce_sandbox()
            file.start(work.plan)

        progress(self.task.name, 0, work.total)
        for count, batch in enumerate(work.batches(done), 1):
            if file:
                file.append(batch())
            progress(self.task.name, count, work.total)
            if stopped():
                raise Interrupted

    def _announce_sandbox(self) -> None:
        """Print how programs are isolated."""
        if isinstance(self.task.method, Execute):
            policy = sandbox.policy(self.settings.sampling.allow_weak_sandbox)
            print(f"{self.task.name}: {policy}")  # noqa: T201

    def _warn_of_truncation(self, file: RecordFile) -> None:
        # Files of earlier versions have no limit; nor was there a warning when they were read back.
        plan = file.plan or {}
        if plan.get("truncated") and "prompt_limit" in plan:
            notices.warn(
                f"{self.task.name}: {plan['truncated']} of {file.settings['items']} prompts lost"
                f" their beginning: {plan['prompt_limit']}"
            )

    def _describe(self, items: Sequence[Item]) -> Record:
        """Everything that a record depends on: equal settings make equal records.

        Items are described by a hash of their contents. Raises UserError where there are none, or
        two of one id.
        """
        task, tokenizer = self.task, self.scorer.tokenizer
        if not items:
            raise UserError(
                f"evaluation {task.name} has no items: name data for it, or leave it out of"
                " config.eval.tasks"
            )
        contents = [asdict(item) for item in items]
        if len({item["id"] for item in contents}) != len(items):
            raise UserError(f"evaluation {task.name}: two items have the same id")
        # Two tokenizers of equal size and special tokens may still differ: PROBE tells them apart.
        special = (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos)
        return {
            "task": task.name,
            "version": task.version,
            "model": self.scorer.tag,
            "tokenizer": records.digest([*special, tokenizer.encode(PROBE)]),
            "items": len(items),
            "content": records.digest(contents),
            **shapes(task.method, self.settings),
            **task.details(self.inputs),
        }


@contextlib.contextmanager
def _alone(shared: Path | None) -> Iterator[None]:
    """Inside, no other run computes the records that they share, unless these are there already."""
    if shared is None or shared.exists():
        yield
        return
    with files.exclusive(shared.parent):
        files.remove_partial(shared.parent)
        yield


def _require_same(name: str, settings: Record, writers: Record) -> None:
    """UserError unless this process would make the records that the writer makes."""
    different = [key for key in writers if settings.get(key) != writers[key]]
    if different:
        raise UserError(
            f"evaluation {name}: {', '.join(different)} of this process is not what process 0 has;"
            " every host needs the same data, weights and package"
        )


def pick(count: int, limit: int, how: str) -> list[int]:
    """Indices of `limit` of `count` items (0 = all): the "first", or evenly "spread" ones."""
    if limit == 0 or limit >= count:
        return list(range(count))
    if how == "first":
        return list(range(limit))
    if how == "spread":
        return [(2 * i + 1) * count // (2 * limit) for i in range(limit)]  # middles of equal parts
    raise UserError(f"items are picked 'first' or 'spread', not {how!r}")
