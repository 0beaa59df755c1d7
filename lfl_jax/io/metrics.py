"""The numbers of a run while it runs: metrics.jsonl, TensorBoard and Weights & Biases."""

import json
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsFloat

import jax

from lfl_jax import notices
from lfl_jax.core import files
from lfl_jax.io import wandb_log

if TYPE_CHECKING:
    from tensorboardX.proto.event_pb2 import Event

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"
FLUSH_SECONDS = 30.0


class StepRecords:
    """A file of JSON lines, each with its "step", that a resumed run goes on with.

    resume_step: of the checkpoint that the run resumes from. Records after it are dropped, since
    those steps will run again. None starts the file again.
    """

    def __init__(self, path: Path, resume_step: int | None) -> None:
        self.path = path
        records = [] if resume_step is None else files.read_jsonl(path)
        # Rewritten even when nothing is dropped: None starts the file again.
        with files.expecting(path, "lines with the step that each is of"):
            before = [record for record in records if files.number(record["step"]) <= resume_step]
        files.write_text(path, "".join(json.dumps(record) + "\n" for record in before))
        self.count = len(before)
        # An earlier start may have ended between a record of that step and its checkpoint.
        at_resume = (record for record in before if record["step"] == resume_step)
        self._recorded = {(resume_step, name) for record in at_resume for name in record}

    def has(self, step: int, names: Iterable[str]) -> bool:
        """Whether all of these were recorded of the step that the run resumes from."""
        return self._recorded.issuperset((step, name) for name in names)

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Each line is with the operating system when this returns."""
        files.append_jsonl(self.path, records)
        self.count += len(records)


def warn_of_gaps(folder: Path, step: int, counts: Mapping[str, int]) -> None:
    """Say which files have fewer records up to a step than its checkpoint counted.

    counts: of `MetricsWriter.counts` when the checkpoint was saved.
    """
    for name, count in counts.items():
        records = files.read_jsonl(folder / name)
        with files.expecting(folder / name, "lines with the step that each is of"):
            there = sum(files.number(record["step"]) <= step for record in records)
        if there < count:
            notices.warn(
                f"{folder / name} has {there} of the {count} records up to step {step}: it was cut"
                " or edited, and what is missing stays missing"
            )


class MetricsWriter:
    """Appends to `metrics.jsonl`, to TensorBoard and, if one is named, to a W&B project.

    One JSON object a line: {"step", "time" (seconds since 1970), name: number, ...}. A number that
    is not finite is null, and "nonfinite": {name: "nan" | "inf" | "-inf"} says which it was, so
    every line is strict JSON. Each line is with the operating system when `write` returns.

    resume_step: as of `StepRecords`. further: names of files with records of their own, for
    `append`. Only process 0 writes.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
        wandb: str = "",
        wandb_group: str = "",
        config: Mapping[str, Any] | None = None,
        further: Sequence[str] = (),
    ) -> None:
        folder = Path(directory)
        self._board: _Board | None = None
        self._wandb: Any = None  # a run of the package wandb, which may not be installed
        self._records: dict[str, StepRecords] = {}
        self._writes = jax.process_index() == 0
        if not self._writes:
            return

        self._records = {
            name: StepRecords(folder / name, resume_step) for name in (METRICS_FILE, *further)
        }
        if wandb:
            self._wandb = wandb_log.start(wandb, folder, config or {}, wandb_group)
        if tensorboard:
            purge_step = 0 if resume_step is None else resume_step + 1
            self._board = _Board(folder / TENSORBOARD_DIR, purge_step)

    def append(self, name: str, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Records of a step that are no scalars, to one of the `further` files."""
        if self._writes:
            self._records[name].append([{"step": step} | record for record in records])

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Record scalars of a step. Several calls may share a step, with other names.

        What was recorded before a resumption stays as it is.
        """
        if not self._writes or not values or self._records[METRICS_FILE].has(step, values):
            return
        numbers = {name: float(value) for name, value in values.items()}
        # JSON has no NaN, and a reader that stops at one would lose the lines after it.
        nonfinite = {name: str(x) for name, x in numbers.items() if not math.isfinite(x)}
        record: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        record |= numbers | dict.fromkeys(nonfinite)
        if nonfinite:
            record["nonfinite"] = nonfinite

        # The file first: it is what a resumed run and the report read, the others are copies.
        self._records[METRICS_FILE].append([record])
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)
        if self._board is not None:
            self._board.write(step, numbers)

    def counts(self) -> dict[str, int]:
        """{file: its records so far}, of the process that writes."""
        return {name: records.count for name, records in self._records.items()}

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def _without_torch() -> Iterator[None]:
    """Inside, torch is not there, unless it was imported before.

    tensorboardX imports it where it is installed, 2 s of every start, to log torch's tensors.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None
    try:
        yield
    finally:
        del sys.modules["torch"]


class _Board:
    """A TensorBoard event file. It may fail: a warning says so, and metrics.jsonl has the numbers.

    tensorboardX's SummaryWriter would write from a thread, whose death blocks the run at its
    eleventh record.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        with _without_torch():
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.record_writer import RecordWriter

        self._file: RecordWriter | None = None
        self._last_flush = time.monotonic()
        # The suffix keeps two runs that start within one second from writing the same file.
        suffix = f"{socket.gethostname()}.{purge_step}-{os.getpid()}"
        name = f"events.out.tfevents.{int(time.time()):010}.{suffix}"
        with self._may_fail():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = RecordWriter(str(folder / name))
        self._write(Event(file_version="brain.Event:2"))
        # TensorBoard hides what an earlier, killed run logged from purge_step on.
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in numbers.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        if time.monotonic() - self._last_flush > FLUSH_SECONDS:
            self._last_flush = time.monotonic()
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()

    def _write(self, event: "Event") -> None:
        if self._file is not None:
            event.wall_time = time.time()
            with self._may_fail():
                self._file.write(event.SerializeToString())

    def _flush(self) -> None:
        if self._file is not None:
            with self._may_fail():
                self._file.flush()

    @contextmanager
    def _may_fail(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log.warning(
                "TensorBoard gets no more of this run (%s); %s has it", error.strerror, METRICS_FILE
            )
            broken, self._file = self._file, None
            if broken is not None:
                with suppress(OSError):  # what is still buffered cannot be written either
                    broken.close()
