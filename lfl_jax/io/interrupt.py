"""Ctrl-C and SIGTERM as a flag that the training loop looks at, so that it can save before it
stops."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax

from lfl_jax.core import hosts

ASK_SECONDS = 5.0  # between two questions to the other processes


class Stop:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.requested = False
        self.signal: signal.Signals | None = None
        self._asked, self._wait, self._calls = time.monotonic(), 1, 0

    def requested_anywhere(self, *, ask: bool = False) -> bool:
        """Whether any process was asked to stop. Every process calls it at every step, with the
        same `ask`.

        A saved step needs every process, so with several of them act on this and not on
        `requested`. They exchange it at the same steps, ASK_SECONDS apart by process 0's clock, and
        whenever `ask` says so: in between it is False.
        """
        if jax.process_count() == 1:
            return self.requested
        self._calls += 1
        if self._calls < self._wait and not ask:
            return False
        now = time.monotonic()
        steps = ASK_SECONDS * self._calls / max(now - self._asked, 1e-3)
        answers = hosts.gather((self.requested, max(1, round(steps))))
        self._asked, self._wait, self._calls = now, answers[0][1], 0
        return any(requested for requested, _ in answers)


@contextmanager
def interrupts() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM sets `requested`; a Ctrl-C after that raises
    KeyboardInterrupt.

    The handlers found are put back on leaving, and a signal that was ignored (nohup) stays ignored.
    Outside the main thread, where Python allows no handlers, the flag is there but no signal sets
    it.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested, stop.signal = True, signal.Signals(number)

    previous = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    previous[number] = signal.signal(number, handle)
        yield stop
    finally:
        for number, handler in previous.items():
            # None: the handler was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
