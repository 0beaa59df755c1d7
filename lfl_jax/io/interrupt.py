"""Ctrl-C and SIGTERM as a flag that the training loop looks at, so that it can save before it stops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax


class Stop:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.requested = False
        self.signal: signal.Signals | None = None

    def requested_anywhere(self) -> bool:
        """Whether any process was asked to stop. Collective: every process calls it at the same step.

        A saved step needs every process, so with several of them act on this and not on `requested`.
        """
        if jax.process_count() == 1:
            return self.requested
        from jax.experimental import multihost_utils

        return bool(multihost_utils.process_allgather(self.requested).any())


@contextmanager
def interrupts() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM sets `requested`; a Ctrl-C after that raises KeyboardInterrupt.

    The handlers found are put back on leaving, and a signal that was ignored (nohup) stays ignored. Outside the
    main thread, where Python allows no handlers, the flag is there but no signal sets it.
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
