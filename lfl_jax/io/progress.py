"""How far a loop is: a bar on a terminal, plain lines elsewhere."""

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOBase
from typing import Protocol, runtime_checkable

import jax

PLAIN_INTERVAL_SECONDS = 10.0


@runtime_checkable
class Advance(Protocol):
    """Counts steps and shows fields after the bar, in this order.

    A number has four significant digits, a string stays as it is, tokens_per_s is "tokens/s".
    """

    def __call__(self, count: int = 1, **fields: float | str) -> None: ...


@contextmanager
def progress(
    total: int,
    description: str,
    *,
    done: int = 0,
    file: TextIOBase | None = None,
    visible: bool = True,
) -> Iterator[Advance]:
    """Show progress on stderr: `with progress(200, "train") as advance: advance(1, loss=2.1)`.

    On a terminal it is a bar with ETA; elsewhere a plain line at the first count, every 10 s and at
    the end. May be nested. done: the count of an earlier run. Only process 0 shows it, and only if
    it is `visible`.
    """
    # Looked up at each call: a test or a notebook may have put another stream there.
    file = sys.stderr if file is None else file
    if not visible or jax.process_index() != 0:
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

    # markup: text in brackets is text, not a colour
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fields]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
    ]
    with Progress(*columns, console=Console(file=file), refresh_per_second=4) as bar:
        task = bar.add_task(description, total=total, completed=done, fields="")

        def advance(count: int = 1, **fields: float | str) -> None:
            bar.update(task, advance=count, fields=_text(fields))

        yield advance


def _plain(total: int, description: str, done: int, file: TextIOBase) -> Advance:
    # A log file gets a line every 10 s at most, so that an hour of steps is a few hundred lines.
    start = time.monotonic()
    last_line = -math.inf
    # The rate counts from the first call on: what comes before is compilation.
    first: tuple[float, int] | None = None

    def advance(count: int = 1, **fields: float | str) -> None:
        nonlocal done, last_line, first
        done, now = done + count, time.monotonic()
        first = first or (now, done)
        if done < total and now - last_line < PLAIN_INTERVAL_SECONDS:
            return

        last_line = now
        if done >= total:
            remaining = f"took {_clock(now - start)}"
        elif done > first[1]:
            remaining = f"ETA {_clock((total - done) * (now - first[0]) / (done - first[1]))}"
        else:
            remaining = "ETA -:--"
        words = (description, f"{done}/{total}", _text(fields), remaining)
        print(" ".join(filter(None, words)), file=file, flush=True)

    return advance


def _text(fields: Mapping[str, float | str]) -> str:
    return "  ".join(f"{_label(name)} {_value(value)}" for name, value in fields.items())


def _label(name: str) -> str:
    return name.replace("_per_", "/").replace("_", " ")


def _value(value: float | str) -> str:
    if isinstance(value, str):
        return value
    value = float(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
