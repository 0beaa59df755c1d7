"""A wall clock that stops while a program waits for a processor that others have.

On a busy machine a right program takes longer and does no more. So what decides is its processor
time, which the kernel limits; the wall limit is for programs that sleep or wait.
"""

import os
import time


class Clock:
    """Counts down `seconds` of wall time, less what was spent waiting for a processor.

    longest: the limit in seconds of wall time whatever happens, so that an end is certain. Where
    the kernel does not tell how long a process waited, the clock is a plain one.
    """

    def __init__(self, seconds: float, longest: float) -> None:
        self.began = time.monotonic()
        self.seconds, self.longest = seconds, longest
        self.watched: list[tuple[int, int]] = []  # descriptor, how long it had waited at first

    def watch(self, path: str, directory: int | None) -> None:
        """Take a process's time of waiting into account: `path` is its folder in /proc."""
        try:
            fd = os.open(f"{path}/schedstat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
            self.watched.append((fd, _waited(fd)))
        except OSError:
            return

    def left(self) -> float:
        """The seconds that are left; 0 or less at the end."""
        passed = time.monotonic() - self.began
        # What the processes waited is asked for only once it matters.
        if passed < self.seconds:
            return self.seconds - passed
        waited = sum(_waited(fd) - at_first for fd, at_first in self.watched)
        return min(self.seconds + max(waited, 0) / 1e9, self.longest) - passed


def _waited(fd: int) -> int:
    """Nanoseconds that a process has been ready to run and did not; of schedstat, the second."""
    try:
        return int(os.pread(fd, 100, 0).split()[1])
    except (OSError, ValueError, IndexError):  # it has ended
        return 0
