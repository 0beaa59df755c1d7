"""How the processes of one run end together.

Each process keeps a connection to process 0 open, and process 0 passes on what it hears:

* A process that ends with an error sends it (`fail`); one that ends as planned says so (`done`).
* A process that was killed sends nothing, but the kernel closes its connection. A host that
  vanished stops answering the kernel's keepalives.
* A thread of each process listens (`_follow`). When another process is gone it ends this one, with
  a line that names the first to go: even while the main thread waits in a collective that can never
  finish.

A message is one line of JSON. No jax here.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

GRACE = 2.0  # seconds for a process to end by itself: all of them often make the same mistake
FAREWELL = 15.0  # seconds that process 0 waits for the others to have heard of an end
# Seconds of silence before the kernel probes, between probes, and how many: a vanished host is
# noticed in 30 s.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


@dataclass(frozen=True)
class End:
    """A process that is gone: its error, or None when it was killed, and its exit code."""

    process: int
    host: str
    error: str | None
    code: int


@dataclass(eq=False)
class Lifeline:
    """This process's connections: in process 0 to all others, elsewhere to process 0."""

    process: int
    count: int
    connections: list[socket.socket] = field(default_factory=list)
    # set when all processes of the run have found each other
    started: threading.Event = field(default_factory=threading.Event)
    # this process ends by itself, or all did: a closed connection means nothing any more
    is_ending: bool = False
    # set when another process is gone, and this one is about to end
    other_ended: threading.Event = field(default_factory=threading.Event)

    def add(self, connection: socket.socket, process: int, host: str) -> None:
        """Listen to this process from now on."""
        _keep_alive(connection)
        self.connections.append(connection)
        _start_thread(self._follow, connection, process, host)

    def start(self) -> None:
        """All are there; process 0 tells the others."""
        self.started.set()
        for connection in self.connections:
            _send(connection, {"start": True})

    def done(self) -> None:
        """This process ends as planned, as all do."""
        self.is_ending = True
        for connection in self.connections:
            _send(connection, {"done": True})

    def fail(self, error: str, code: int) -> None:
        """End this process, and tell the others why."""
        self.tell(error, code)
        _exit(code)

    def tell(self, error: str, code: int) -> None:
        """Tell the others that this process ends with an error, which ends them."""
        self.is_ending = True
        self._pass_on(End(self.process, socket.gethostname(), error, code))

    def wait_for_other_end(self, seconds: float = 5.0) -> None:
        """Return after these seconds, unless another process turns out to be gone.

        In that case the listening thread ends this process, and this call does not return.
        """
        if self.other_ended.wait(seconds):
            threading.Event().wait(GRACE + FAREWELL)

    def _follow(self, connection: socket.socket, process: int, host: str) -> None:
        """Wait until the process on the other side is done, fails, or is gone without a message."""
        message: dict[str, object] = {"start": True}
        with connection, connection.makefile("rb") as lines:
            while "start" in message:
                line = b""
                with contextlib.suppress(OSError):
                    line = lines.readline()
                # without a newline the connection was closed, perhaps within a message
                killed = asdict(End(process, host, None, 1))
                message = json.loads(line) if line.endswith(b"\n") else killed
                if "start" in message:
                    self.started.set()
            self.connections.remove(connection)
        if "done" not in message:
            self._end(End(**message))

    def _end(self, end: End) -> None:
        """Another process is gone: this one ends, too."""
        if self.is_ending or self.other_ended.is_set():
            return
        self.other_ended.set()
        if end.error is not None:
            time.sleep(GRACE)
        if self.is_ending:  # by an error of its own, which it reports itself
            return
        sys.stderr.write(_report(end, self.process, self.count))
        self._pass_on(end)
        _exit(end.code)

    def _pass_on(self, end: End) -> None:
        """Send an end to all connections."""
        for connection in list(self.connections):
            _send(connection, asdict(end))
        # When process 0 goes, jax ends the others at once: it stays until they have heard.
        deadline = time.monotonic() + FAREWELL
        while self.process == 0 and self.connections and time.monotonic() < deadline:
            time.sleep(0.05)


def _report(end: End, process: int, count: int) -> str:
    killed = "was killed or crashed; its own output may say why"
    how = killed if end.error is None else f"ended: {end.error}"
    return (
        f"error: process {end.process} of {count} (host {end.host}) {how}\n"
        f"process {process} ends, too; the same command resumes from the last checkpoint\n"
    )


def _exit(code: int) -> None:
    # os._exit, since an orderly exit would wait in jax for processes that are gone
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _send(connection: socket.socket, message: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the other side may be gone itself
        connection.sendall(json.dumps(message).encode() + b"\n")


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not every system has them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _start_thread(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True, name="lifeline").start()
