"""The process between the supervisor and the untrusted one: it ends what it started, whoever dies.

With namespaces it is process 1 of the new process tree: when it ends, the kernel ends all others.
Without, it makes the writable folder, watches how much is written there, and removes it. It runs no
untrusted code, decides nothing, and lives as long as a pipe from the supervisor is open and the
untrusted process runs.
"""

import _signal
import os
import select

from folder import is_full, remove
from isolation import PDEATHSIG, libc

PERIOD = 20  # milliseconds between two looks at the folder
KILL = 9
FULL = 250  # exit code that says the folder was full; a program that gives it fails as well


def keep(program: int, alive: int, folder: str | None, most_bytes: int) -> int:
    """Wait for the end of the program's process or of the supervisor; the program's exit code.

    alive: end of a pipe whose other end only the supervisor has. folder: to watch and remove. Of
    the descriptors standard error stays open: whoever reads its other end sees when all is over.
    """
    for signal in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
        _signal.signal(signal, _signal.SIG_IGN)  # they end the supervisor, and then this
    os.dup2(alive, 0)
    os.close(1)
    os.closerange(3, 65536)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    is_told = _told_of_end(program, poll)

    full = False
    while not poll.poll(PERIOD if folder or not is_told else None):
        if not is_told and _has_ended(program):
            break
        if folder and is_full(folder, program, most_bytes):
            full = True
            break
    os.kill(program, KILL)  # it may have ended: it stays a zombie until the next line
    exit_code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    if folder:
        remove(folder)
    if full:
        return FULL
    return exit_code if exit_code >= 0 else 128 - exit_code


def _told_of_end(program: int, poll: select.poll) -> bool:
    """Whether the poll will tell of the program's end: from Linux 5.3 on, where it is allowed.

    Some builds of Python lack the call.
    """
    try:
        poll.register(os.pidfd_open(program), select.POLLIN)
    except (AttributeError, OSError):
        return False
    return True


def _has_ended(program: int) -> bool:
    """Whether it has, and stays a zombie."""
    return os.waitid(os.P_PID, program, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends."""
    libc("prctl", PDEATHSIG, KILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
