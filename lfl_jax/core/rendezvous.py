"""How the processes of a run find each other, before jax connects them.

Left to itself, jax waits for a missing process for minutes without a word, and ends with a stack
trace of its native code. So they first meet by themselves, at the address that jax will use:

* Process 0 listens there. Another one connects and says which it is (`Hello`).
* When all are there, process 0 closes the port, which jax opens next, and tells them to go on.
* When some do not come in time, all end with a line that names the missing ones.

The connections stay open as the run's lifeline, so that a process that dies while jax starts is
named, too. No jax here.
"""

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from lfl_jax.core.lifeline import Lifeline
from lfl_jax.errors import UserError

PROTOCOL = "lfl_jax 1"  # the first word of a process of this package
POLL = 0.25  # seconds between attempts
SILENCE = 5.0  # seconds before the first line about a wait; the next ones come twice as late each
ANSWER = 10.0  # seconds that the other side has for its first line


@dataclass(frozen=True)
class Hello:
    """What a process tells process 0: which it is, of how many, and where."""

    process: int
    count: int
    host: str
    protocol: str = PROTOCOL


def meet(coordinator: str, process: int, count: int, seconds: float) -> Lifeline:
    """Connections between process 0 and all others; returns when all are there.

    coordinator: HOST:PORT of process 0. UserError, which names who is missing, where that takes
    longer than these seconds. A process that is connected already waits for process 0's decision.
    """
    host, _, port = coordinator.rpartition(":")
    wait = _Wait(seconds)
    if process == 0:
        return _Meeting(coordinator, count, wait).held(int(port))
    hello = Hello(process, count, socket.gethostname())
    connection, first_host = _connection(host.strip("[]"), int(port), hello, wait)
    lifeline = Lifeline(process, count)
    lifeline.add(connection, 0, first_host)
    while not lifeline.started.wait(POLL):
        wait.say(f"process {process} is connected to process 0, which waits for others")
    return lifeline


@dataclass
class _Wait:
    """Time that is left, and lines about the wait on stderr."""

    seconds: float
    start: float = field(default_factory=time.monotonic)
    lines: int = 0

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.start > self.seconds

    @property
    def for_answer(self) -> float:
        """Seconds that the other side has now."""
        return min(ANSWER, max(POLL, self.start + self.seconds - time.monotonic()))

    def say(self, text: str) -> None:
        """The text, when it is time for a line."""
        passed = time.monotonic() - self.start
        if passed >= SILENCE * 2**self.lines:
            self.lines += 1
            sys.stderr.write(f"{text} ({passed:.0f} s)\n")
            sys.stderr.flush()


@dataclass(eq=False)
class _Meeting:
    """Process 0's: who has come."""

    coordinator: str
    count: int
    wait: _Wait
    lifeline: Lifeline = field(init=False)
    hosts: dict[int, str] = field(default_factory=dict)  # process -> its host
    problem: str = ""  # of a process that does not belong to this run
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.lifeline = Lifeline(0, self.count)

    @property
    def missing(self) -> list[int]:
        return [process for process in range(1, self.count) if process not in self.hosts]

    def held(self, port: int) -> Lifeline:
        """The lifeline to all of them; UserError, which those who came are told, otherwise."""
        try:
            if self.missing:
                self._receive(port)
        except UserError as error:
            self.lifeline.tell(str(error), 2)
            raise
        self.lifeline.start()
        return self.lifeline

    def _receive(self, port: int) -> None:
        with _listening(port, self.count) as server:
            while self.missing:
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    # in a thread, since it may be a stranger who says nothing
                    threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()
                if self.problem:
                    raise UserError(self.problem)
                if self.wait.is_over:
                    raise UserError(self._who_is_missing())
                came = self.count - len(self.missing)
                self.wait.say(
                    f"{came} of {self.count} processes are at {self.coordinator}; waiting for"
                    f" {_named(self.missing)}"
                )

    def _welcome(self, connection: socket.socket) -> None:
        hello = _read(connection, ANSWER)
        try:
            if hello.pop("protocol") != PROTOCOL:
                raise ValueError
            came = Hello(int(hello["process"]), int(hello["count"]), str(hello["host"]))
        except (KeyError, ValueError, TypeError):
            connection.close()  # a stranger
            return
        with self.lock:
            objection = self._objection(came)
            self.problem = self.problem or objection
            # also one that does not fit is connected: it then hears why all end
            _write(connection, {"welcome": PROTOCOL, "host": socket.gethostname()})
            self.lifeline.add(connection, came.process, came.host)
            if not objection:
                self.hosts[came.process] = came.host

    def _objection(self, came: Hello) -> str:
        """Why this process does not belong to the run; "" where it does."""
        who = f"process {came.process} (host {came.host})"
        if came.count != self.count:
            return (
                f"{who} was started as one of {came.count} processes, process 0 as one of"
                f" {self.count}: give every process the same --processes"
            )
        if came.process in self.hosts:
            return (
                f"hosts {self.hosts[came.process]} and {came.host} both say that they are process"
                f" {came.process}: give every process its own --process_id"
            )
        return ""

    def _who_is_missing(self) -> str:
        came = [f"{process} ({host})" for process, host in sorted(self.hosts.items())]
        also = f"; there came {', '.join(came)}" if came else ""
        return (
            f"process 0 waited {self.wait.seconds:g} s at {self.coordinator} for"
            f" {_named(self.missing)} of {self.count}{also}. Start the same command for each"
            " process, where that address can be reached; --join_timeout=SECONDS waits longer"
        )


def _named(processes: list[int]) -> str:
    """ "process 3", "processes 1, 2, 5"; of many the first ones and their number."""
    first = ", ".join(map(str, processes[:8]))
    more = f" and {len(processes) - 8} more" if len(processes) > 8 else ""
    return f"process{'es' * (len(processes) > 1)} {first}{more}"


@contextlib.contextmanager
def _listening(port: int, backlog: int) -> Iterator[socket.socket]:
    """A listening socket at this port of all addresses; the port is free again afterwards."""
    dual_stack = socket.has_dualstack_ipv6()
    try:
        server = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if dual_stack else socket.AF_INET,
            backlog=backlog,
            dualstack_ipv6=dual_stack,
        )
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at port {port} of {socket.gethostname()}: {error.strerror};"
            " another run may use it: give all processes another port in --coordinator=HOST:PORT"
        ) from None
    with server:
        server.settimeout(POLL)
        yield server


def _connection(host: str, port: int, hello: Hello, wait: _Wait) -> tuple[socket.socket, str]:
    """A connection that process 0 has answered, and the name that it gives its host."""
    who, where, reason = f"process {hello.process} of {hello.count}", f"{host}:{port}", "no answer"
    while not wait.is_over:
        wait.say(f"{who} waits for process 0 at {where}: {reason}")
        try:
            connection = socket.create_connection((host, port), timeout=wait.for_answer)
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(POLL)
            continue
        _write(connection, asdict(hello))
        answer = _read(connection, wait.for_answer)
        if answer.get("welcome") == PROTOCOL:
            return connection, str(answer.get("host"))
        # a run that ends just now, or one of another package
        connection.close()
        reason = "something else listens there"
        time.sleep(POLL)
    raise UserError(
        f"{who} found no process 0 at {where} in {wait.seconds:g} s: {reason}. Is it started, with"
        f" --process_id=0, and can this host ({hello.host}) reach that address?"
        " --join_timeout=SECONDS waits longer"
    )


def _read(connection: socket.socket, seconds: float) -> dict[str, object]:
    """The first line, which is a JSON object; {} where it is anything else, or comes too late."""
    connection.settimeout(seconds)
    try:
        # unbuffered: what comes after this line is for the lifeline to read
        line = json.loads(connection.makefile("rb", buffering=0).readline(1000))
    except (OSError, ValueError):
        return {}
    return line if isinstance(line, dict) else {}


def _write(connection: socket.socket, line: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the other side may be gone
        connection.sendall(json.dumps(line).encode() + b"\n")
