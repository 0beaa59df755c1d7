"""What a run says while it runs: metrics.jsonl, TensorBoard, a progress bar, and how much memory it
took."""

import json
import logging
import math
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from lfl_jax.core import files
from lfl_jax.io import wandb_log

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"
FLUSH_SECONDS = 30.0
PLAIN_INTERVAL_SECONDS = 10.0


class MetricsWriter:
    """Appends to `metrics.jsonl`, to TensorBoard and to a W&B project, if one is named; only
    process 0 writes.

    One JSON object a line: {"step", "time" (seconds since 1970), name: number, ...}. A number that
    is not finite is null, and "nonfinite": {name: "nan" | "inf" | "-inf"} says which it was, so
    every line is strict JSON. Each line is with the operating system when `write` returns.
    resume_step is the step of the checkpoint that the run
    goes on from: records after it are dropped, those steps will be run again. None starts the file
    anew.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
        wandb: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = Path(directory) / METRICS_FILE
        self._board: _Board | None = None
        self._wandb: Any = None
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        records = [] if resume_step is None else files.read_jsonl(self._path)
        kept = [
            record
            for record in records
            if resume_step is not None and record["step"] <= resume_step
        ]
        files.write_text(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        if wandb:
            self._wandb = wandb_log.start(wandb, self._path.parent, config or {})
        if tensorboard:
            purge_step = 0 if resume_step is None else resume_step + 1
            self._board = _Board(self._path.parent / TENSORBOARD_DIR, purge_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Record scalars of a step, anything float() takes. Several calls may share a step, with
        other names."""
        if not self._writes or not values:
            return
        numbers = {name: float(value) for name, value in values.items()}
        record: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        record |= {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        nonfinite = {
            name: str(value) for name, value in numbers.items() if not math.isfinite(value)
        }
        if nonfinite:
            record["nonfinite"] = nonfinite
        files.append_jsonl(self._path, [record])
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)
        if self._board is not None:
            self._board.write(step, numbers)

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


class _Board:
    """A TensorBoard event file. It may fail: a warning says so, and metrics.jsonl has the same
    numbers.

    tensorboardX's SummaryWriter would write from a thread, whose death blocks the run at its
    eleventh record.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._file: RecordWriter | None = None
        self._last_flush = time.monotonic()
        # The suffix keeps two runs that start within one second from writing the same file.
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{purge_step}-{os.getpid()}"
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

    def _write(self, event: Any) -> None:
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


Advance = Callable[..., None]


@contextmanager
def progress(
    total: int,
    description: str,
    *,
    done: int = 0,
    file: TextIOBase | None = None,
    shown: bool = True,
) -> Iterator[Advance]:
    """Show how far a loop is, on stderr: `with progress(200, "train") as advance: advance(1,
    loss=2.1)`.

    `advance(count=1, **fields)` counts and shows the fields after the bar, in the order given: a
    number with four significant digits, a string as it is, tokens_per_s as "tokens/s". On a
    terminal it is a bar with ETA; elsewhere a plain line at the first count, every 10 s and at the
    end. May be nested. `done` is what an earlier run did already. Process 0 only shows it, and only
    if it is `shown`.
    """
    file = sys.stderr if file is None else file
    if not shown or jax.process_index() != 0:
        yield lambda count=1, **fields: None
    elif file.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(total, description, done, file) as advance:
            yield advance
    else:
        yield _plain(total, description, done, file)


@contextmanager
def _bar(total: int, description: str, done: int, file: TextIOBase) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
    ]
    with Progress(*columns, console=Console(file=file), refresh_per_second=4) as bar:
        task = bar.add_task(description, total=total, completed=done, shown="")

        def advance(count: int = 1, **fields: Any) -> None:
            bar.update(task, advance=count, shown=_shown(fields))

        yield advance


def _plain(total: int, description: str, done: int, file: TextIOBase) -> Advance:
    start = time.monotonic()
    last_line = -math.inf
    # The rate counts from the first call on: what comes before is compilation.
    first: tuple[float, int] | None = None

    def advance(count: int = 1, **fields: Any) -> None:
        nonlocal done, last_line, first
        done, now = done + count, time.monotonic()
        first = first or (now, done)
        if done < total and now - last_line < PLAIN_INTERVAL_SECONDS:
            return
        last_line = now
        if done >= total:
            left = f"took {_clock(now - start)}"
        elif done > first[1]:
            left = f"ETA {_clock((total - done) * (now - first[0]) / (done - first[1]))}"
        else:
            left = "ETA -:--"
        words = (description, f"{done}/{total}", _shown(fields), left)
        print(" ".join(filter(None, words)), file=file, flush=True)

    return advance


def _shown(fields: Mapping[str, Any]) -> str:
    return "  ".join(f"{_label(name)} {_number(value)}" for name, value in fields.items())


def _label(name: str) -> str:
    return name.replace("_per_", "/").replace("_", " ")


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    value = float(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@dataclass(frozen=True)
class PeakMemory:
    """Bytes at the highest moment: of this process, and of the fullest of its devices (None: not
    counted)."""

    host: int
    device: int | None


def peak_memory_bytes() -> PeakMemory:
    """Peak memory so far. On CPU the arrays are the process's own memory, and `device` is None."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [
        found["peak_bytes_in_use"] for found in stats if found and "peak_bytes_in_use" in found
    ]
    return PeakMemory(_peak_host_bytes(), max(peaks, default=None))


def _peak_host_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        # ru_maxrss also counts what the parent held when it forked this process; VmHWM does not.
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(kib)
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
