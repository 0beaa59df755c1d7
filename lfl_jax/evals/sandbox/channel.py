"""The supervisor's side of the pipes to the untrusted process: requests, replies and output."""

import builtins
import os
import select
import struct
from collections.abc import Callable, Iterator

from clock import Clock
from untrusted import LONGEST_MESSAGE, LONGEST_NAME
from wire import decode, encode, framed, read

LARGEST_FRAME = 4 << 20  # bytes of one returned value; it is decoded by pure Python
PIPE_BUFFER = 4096  # bytes that a pipe takes at once where it can be written to
LEAST_WAIT = 0.05  # seconds; a clock that stops now and then is not asked more often

Request = tuple[str, object, tuple, dict]  # "call" or "list", of what, arguments, keyword arguments


class Stop(BaseException):
    """Ends the tests, whatever they catch; its argument is the reason."""


class Unknown:
    """A value of the untrusted process that is no plain data.

    It can be called, iterated over and passed back, and equals nothing but itself.
    """

    def __init__(self, reference: bytes, ask: Callable[[Request], object]) -> None:
        self._reference, self._ask = reference, ask

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._ask(("call", self, args, kwargs))

    def __iter__(self) -> Iterator[object]:
        return iter(self._ask(("list", self, (), {})))


class Channel:
    """Requests to the untrusted process, replies and output from it.

    None of the three pipes ever blocks this side. clock: says when the time is over. room: how many
    bytes of output are recorded.
    """

    def __init__(self, requests: int, replies: int, output: int, clock: Clock, room: int) -> None:
        for fd in (requests, replies, output):
            os.set_blocking(fd, False)
        self.requests, self.replies = requests, replies
        self.output: int | None = output  # None once it has ended
        self.clock, self.room = clock, room
        self.recorded: list[bytes] = []
        self.requested = 0
        self.stopped: str | None = None  # why there are no more answers

    def ask(self, request: Request) -> object:
        """The value that a call returns, or its exception; Stop when there is no answer."""
        self.requested += 1
        # Tests may catch even Stop, and call again.
        if self.stopped is not None:
            raise Stop(self.stopped)
        try:
            self.send(encode(request, lambda value: value._reference))
        except OSError:
            raise self.stop("exited early") from None
        return self.answer()

    def stop(self, reason: str) -> Stop:
        """What ends the tests; what they make of it changes nothing."""
        self.stopped = reason
        return Stop(reason)

    def send(self, data: bytes) -> None:
        """Write a frame; Stop when the time is over, as the other side may never read it."""
        unwritten = memoryview(framed(data))
        while unwritten:
            self.wait(writing=(self.requests,))
            try:
                unwritten = unwritten[os.write(self.requests, unwritten[:PIPE_BUFFER]) :]
            except BlockingIOError:  # there was less room than said
                continue

    def receive(self) -> bytes:
        """The next frame; EOFError, OSError or ValueError where there is none."""
        return read(self.replies, LARGEST_FRAME, lambda: self.wait(reading=(self.replies,)))

    def answer(self) -> object:
        """The value in the next reply, or its exception."""
        try:
            reply = self.receive()
            value = decode(reply[1:], lambda tag, number: Unknown(b"h%d;" % number, self.ask))
            # By hand, any bytes may have been written: a name that is none is no reply either.
            name, text = (None, None) if reply[:1] == b"v" else (str(value[0]), str(value[1]))
        except (EOFError, OSError):
            raise self.stop("exited early") from None
        except MALFORMED:
            raise self.stop("unreadable reply") from None
        if name is None:
            return value
        if name in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
            raise self.stop(f"exited early: {name}")
        if name == "MemoryError":
            raise self.stop("memory")
        raise _exception(name[:LONGEST_NAME], text[:LONGEST_MESSAGE])

    def wait(self, reading: tuple[int, ...] = (), writing: tuple[int, ...] = ()) -> None:
        """Take output until one of these can be read or written; Stop when the time is over."""
        while (seconds := self.clock.left()) > 0:
            sources = reading if self.output is None else (*reading, self.output)
            readable, writable, _ = select.select(sources, writing, [], max(seconds, LEAST_WAIT))
            if self.output in readable and not self.take():
                self.output = None
            if writable or set(readable) & set(reading):
                return
        raise self.stop("timeout")

    def take(self) -> bool:
        """Read output once, and record what there is room for; False at its end."""
        part = os.read(self.output, 1 << 16)
        self.recorded.append(part[: self.room])
        self.room -= len(self.recorded[-1])
        return bool(part)

    def take_the_rest(self) -> None:
        """Read the output that is left once nobody writes any more."""
        try:
            while self.room and self.output is not None and self.take():
                pass
        except BlockingIOError:
            return


# What decoding raises for a reply that is none.
MALFORMED = (
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    struct.error,
)
# These end the loops, `map` and `zip` that they pass through, of tests as well: half a test would
# have passed.
ENDS_LOOPS = ("StopIteration", "StopAsyncIteration")


def _exception(name: str, text: str) -> Exception:
    """An exception of this name that tests can catch: Python's own, or one of a new class."""
    builtin = getattr(builtins, name, None)
    is_python_s = isinstance(builtin, type) and issubclass(builtin, Exception)
    if not is_python_s or name in ENDS_LOOPS:
        return type(name, (RuntimeError,), {})(text)
    try:
        return builtin(text)
    except TypeError:  # such as UnicodeDecodeError, which is made of five arguments
        methods = {"__init__": lambda self, *args: None, "__str__": lambda self: text}
        return type(name, (builtin,), methods)()
