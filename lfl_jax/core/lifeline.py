"""How the processes of one run end together: each keeps a connection to process 0 open, which tells
the others.

A process that ends with an error says so on it. One that was killed says nothing, but the kernel
closes its connection; a host that vanished stops answering the kernel's keepalives. A thread of
each process listens and ends it with a line that names who went, even while the main thread waits
in a collective that can never finish.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

GRACE = 2.0  # seconds for a process to end by itself: the same mistake is often made by all
CONNECT = 20.0  # seconds for a connection to be made, and for its first line
FAREWELL = 6.0  # seconds that process 0 waits for the others to have heard of an end
# Seconds of silence before the kernel asks, between questions, and how many: a vanished host is
# noticed in 30 s.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


@dataclass(frozen=True)
class End:
    """A process that is gone: its last words, or None when it was killed, and its exit code."""

    process: int
    host: str
    words: str | None
    code: int


@dataclass(eq=False)
class Lifeline:
    """This process's end of the connections: to all others in process 0, to process 0 elsewhere."""

    process: int
    count: int
    port: int = 0
    secret: str = ""
    connections: list[socket.socket] = field(default_factory=list)
    # this process ends by itself, or all did: what happens to connections means nothing
    over: bool = False
    verdict: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def listen(cls, count: int) -> "Lifeline":
        """Process 0's: others may connect for as long as the run lasts."""
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        server = socket.create_server(("", 0), family=family, backlog=count, dualstack_ipv6=both)
        lifeline = cls(0, count, server.getsockname()[1], secrets.token_hex(8))
        _thread(lifeline._accept, server)
        return lifeline

    @classmethod
    def connect(cls, host: str, port: int, secret: str, process: int, count: int) -> "Lifeline":
        """Another process's; `connected` is False when process 0 cannot be reached."""
        lifeline = cls(process, count)
        try:
            connection = socket.create_connection((host, port), timeout=CONNECT)
        except OSError:
            return lifeline
        _keep_alive(connection)
        _send(connection, {"secret": secret, "process": process, "host": socket.gethostname()})
        lifeline.connections.append(connection)
        _thread(lifeline._follow, connection, 0, host)
        return lifeline

    @property
    def connected(self) -> bool:
        return bool(self.connections)

    def done(self) -> None:
        """This process ends as planned, as all do."""
        self.over = True
        for connection in self.connections:
            _send(connection, {"done": True})

    def fail(self, words: str, code: int) -> None:
        """End this process, and tell the others why."""
        self.over = True
        self._tell(End(self.process, socket.gethostname(), words, code))
        _exit(code)

    def await_verdict(self, seconds: float = 5.0) -> None:
        """Wait whether another process turns out to be gone; if so this does not return, the
        process ends."""
        if self.verdict.wait(seconds):
            threading.Event().wait(GRACE + FAREWELL)

    def _accept(self, server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            _keep_alive(connection)
            _thread(self._welcome, connection)

    def _welcome(self, connection: socket.socket) -> None:
        """The first line says who it is; a stranger's connection is closed."""
        connection.settimeout(CONNECT)
        try:
            hello = json.loads(connection.makefile("rb", buffering=0).readline(1000))
            known = secrets.compare_digest(hello["secret"], self.secret)
            process, host = int(hello["process"]), str(hello["host"])
        except (OSError, ValueError, KeyError, TypeError):
            known = False
        if not known:
            connection.close()
            return
        connection.settimeout(None)
        self.connections.append(connection)
        self._follow(connection, process, host)

    def _follow(self, connection: socket.socket, process: int, host: str) -> None:
        """Read until the process at the other side is done, fails, or is gone without a word."""
        try:
            line = connection.makefile("rb").readline()
        except OSError:
            line = b""
        self.connections.remove(connection)
        said = json.loads(line) if line.endswith(b"\n") else asdict(End(process, host, None, 1))
        if "done" not in said:
            self._end(End(**said))

    def _end(self, end: End) -> None:
        """Another process is gone: this one ends, too."""
        if self.over or self.verdict.is_set():
            return
        self.verdict.set()
        if end.words is not None:
            time.sleep(GRACE)
        if self.over:
            return
        sys.stderr.write(_line(end, self.process, self.count))
        self._tell(end)
        _exit(end.code)

    def _tell(self, end: End) -> None:
        """Pass an end on; process 0 stays until the others have closed: jax ends them at once when
        it goes."""
        for connection in list(self.connections):
            _send(connection, asdict(end))
        deadline = time.monotonic() + FAREWELL
        while self.process == 0 and self.connections and time.monotonic() < deadline:
            time.sleep(0.05)


def _line(end: End, process: int, count: int) -> str:
    how = (
        "was killed or crashed; its own output may say why"
        if end.words is None
        else f"ended: {end.words}"
    )
    return (
        f"error: process {end.process} of {count} (host {end.host}) {how}\n"
        f"process {process} ends, too; the same command resumes from the last checkpoint\n"
    )


def _exit(code: int) -> None:
    """At once: an orderly exit would wait in jax for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _send(connection: socket.socket, message: dict) -> None:
    with contextlib.suppress(OSError):  # gone itself
        connection.sendall(json.dumps(message).encode() + b"\n")


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _thread(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, daemon=True, name="lifeline").start()
