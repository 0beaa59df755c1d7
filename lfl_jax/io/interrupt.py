"""Ctrl-C, SIGTERM and SIGHUP as a flag that the training loop reads, so that it saves first."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax

from lfl_jax.core import hosts
from lfl_jax.errors import STOPS, Interrupter, leave_terminal

# Not jax's `multihost_utils.reached_preemption_sync_point`: its preemption service handles SIGTERM
# from jax.distributed.initialize on. A SIGTERM while the base is loaded or evaluated would then end
# nothing, and Ctrl-C is unknown to it. What follows asks through the same coordination service,
# which compiles nothing and waits for no device (core/hosts.py), and rarely.
ASK_SECONDS = 5.0  # between two exchanges with the other processes


class Stop:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.requested = False
        self.signal: signal.Signals | None = None
        self._last_exchange = time.monotonic()
        self._steps_between = 1  # exchanges, in calls: the same number on every process
        self._steps_since = 0

    def requested_anywhere(self, *, ask: bool = False) -> bool:
        """Whether any process was asked to stop; False between exchanges.

        Every process calls it at every step, with the same `ask`. A checkpoint needs every process,
        so with several of them act on this and not on `requested`. They exchange it at the same
        steps, ASK_SECONDS apart by process 0's clock, and whenever `ask` says so.
        """
        if jax.process_count() == 1:
            return self.requested
        self._steps_since += 1
        if self._steps_since < self._steps_between and not ask:
            return False

        now = time.monotonic()
        steps_per_second = self._steps_since / max(now - self._last_exchange, 1e-3)
        steps_between = max(1, round(ASK_SECONDS * steps_per_second))
        answers = hosts.gather((self.requested, steps_between))
        # Clocks differ, and all have to ask at the same step: process 0's number counts.
        self._last_exchange, self._steps_between, self._steps_since = now, answers[0][1], 0
        return any(requested for requested, _ in answers)

    def change_pace(self) -> None:
        """From here on calls come at another rate (batches after steps): the next one exchanges.

        Every process calls it at the same place.
        """
        self._last_exchange, self._steps_between, self._steps_since = time.monotonic(), 1, 0


@contextmanager
def interrupts() -> Iterator[Stop]:
    """Inside, the first SIGINT, SIGTERM or SIGHUP sets `requested`.

    A later Ctrl-C raises KeyboardInterrupt. The previous handlers are restored at the end, and told
    of the request: what runs here may have failed before it could act on it. A signal that was
    ignored (nohup) stays ignored. Outside the main thread, where Python allows no handlers, no
    signal sets the flag.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        leave_terminal(number)
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested, stop.signal = True, signal.Signals(number)

    previous = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *STOPS):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before = previous[number] = signal.signal(number, handle)
                    # Asked before, and the exception was lost.
                    stop.requested |= isinstance(before, Interrupter) and before.asked
        yield stop
    finally:
        for number, handler in previous.items():
            # None: the handler was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            if isinstance(handler, Interrupter):
                handler.asked |= stop.requested
