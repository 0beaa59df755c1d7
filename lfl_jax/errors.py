"""Errors made for the person who caused them, and how an entry point reports them."""

import contextlib
import errno
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

LONG_WORD = re.compile(r"\S{300,}")


class UserError(Exception):
    """A mistake in a config, file or command, in a line or two with what to do; exit code 2."""

    def __init__(self, message: object = "") -> None:
        # What a message quotes from a file may be of any length.
        super().__init__(LONG_WORD.sub(lambda word: f"{word[0][:150]}...", str(message)))


class NonFiniteLoss(Exception):
    """Training diverged: its loss is no number, or far beyond any sensible one. Exit code 3."""


def mistakes(problems: Sequence[str]) -> UserError:
    """One error for all of these: several are numbered, a line each."""
    if len(problems) == 1:
        return UserError(problems[0])
    lines = (f"  {number}. {problem}" for number, problem in enumerate(problems, 1))
    return UserError("\n".join((f"{len(problems)} mistakes:", *lines)))


# Control characters (terminals obey them) and marks that turn the direction of what follows;
# newline and tab stay.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SHOWN = {code: ascii(chr(code))[1:-1] for code in _CONTROLS if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    r"""Text from a file as a terminal may be given it: control characters are written out, as in
    \x1b."""
    return text.translate(_SHOWN)


# A place that cannot be used: a run's, a file's. It is said in a line, as the person's own mistakes
# are.
PLACES = (PermissionError, NotADirectoryError, IsADirectoryError)
EXIT_CODES: dict[type[BaseException], int] = {
    UserError: 2,
    **dict.fromkeys(PLACES, 2),
    NonFiniteLoss: 3,
    KeyboardInterrupt: 130,
    BrokenPipeError: 0,
}


# Libraries that write for us (safetensors, tensorstore) have exceptions of their own, with the
# system's words in them.
MAKE_ROOM = "make room, then the same command resumes"
# The last: the limit of a file's size (ulimit -f).
FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)))
NO_ROOM = 4  # the exit code


def full(error: BaseException) -> str | None:
    """That there was no room to write, in the system's words; None for any other error."""
    return next((words for words in FULL if words in str(error)), None)


def exit_code(error: BaseException) -> int | None:
    """The message and code that an expected error ends a process with.

    None for an unexpected one, which keeps its traceback.
    """
    if full(error):
        return NO_ROOM
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), None)


def report(error: BaseException) -> None:
    """Say an expected error in its lines, on stderr."""
    if isinstance(error, UserError | NonFiniteLoss):
        print(f"error: {printable(str(error))}", file=sys.stderr)
    elif isinstance(error, PLACES):
        print(
            f"error: cannot use {printable(str(error.filename))}: {error.strerror}", file=sys.stderr
        )
    elif isinstance(error, KeyboardInterrupt):
        # Whoever presses it once more means it: no traceback of what is still being closed.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("interrupted; the same command goes on where it was", file=sys.stderr)
    elif full(error):
        file = getattr(error, "filename", None)
        where = f"cannot write {printable(str(file))}: " if file else ""
        print(f"error: {where}{full(error)}; {MAKE_ROOM}", file=sys.stderr)


def entry(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Run an entry point; expected mistakes end it with their message and exit code.

    Others keep their traceback. Characters that the terminal's encoding does not have are replaced.
    """
    for stream in (sys.stdout, sys.stderr):
        # a stream that a test or a notebook put there may not have it
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    with _stops_are_remembered():
        try:
            main(sys.argv if argv is None else argv)
        except BaseException as error:
            if exit_code(error) is None:
                raise
            report(error)
            sys.exit(exit_code(error))


# Asked to end, and the terminal is gone (not on every system).
STOPS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def leave_terminal(number: int) -> None:
    """After SIGHUP, write to nowhere: the terminal is gone, and every print would be an error."""
    if number != getattr(signal, "SIGHUP", None):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        # Not a file or a pipe, which may be there still.
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)


class Interrupter:
    """A signal handler that raises KeyboardInterrupt.

    asked: whether it was called, or a run was asked to stop. The exception is lost where code that
    Python ignores the errors of is interrupted, such as a finaliser, and a run's last step may fail
    when it was asked: whatever begins something new asks `was_asked_to_stop` first.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        leave_terminal(number)
        raise KeyboardInterrupt


def was_asked_to_stop() -> bool:
    """Whether this process was asked to stop before, and yet goes on."""
    handlers = map(signal.getsignal, (signal.SIGINT, *STOPS))
    return any(isinstance(x, Interrupter) and x.asked for x in handlers)


@contextlib.contextmanager
def _stops_are_remembered() -> Iterator[None]:
    """Inside, these signals and Ctrl-C are an `Interrupter`'s, unless ignored or handled already.

    Where a run can be saved, `io.interrupt` handles them.
    """
    interrupt, plain = Interrupter(), (signal.SIG_DFL, signal.default_int_handler)
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, *STOPS) if is_main else ()
    before = {x: signal.getsignal(x) for x in numbers if signal.getsignal(x) in plain}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            # After an interrupt `report` has put another in its place.
            if signal.getsignal(number) is interrupt:
                signal.signal(number, handler)
