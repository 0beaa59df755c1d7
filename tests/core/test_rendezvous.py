"""How processes meet at process 0's port: who is missing, who does not belong, and what they say
then. The processes are threads here."""

import json
import re
import socket
import threading
import time

import pytest

from lfl_jax.core import lifeline, rendezvous
from lfl_jax.core.lifeline import Lifeline
from lfl_jax.errors import UserError


@pytest.fixture
def ends(monkeypatch):
    """Exit codes of processes that would have ended."""
    codes = []
    monkeypatch.setattr(lifeline, "_exit", codes.append)
    monkeypatch.setattr(lifeline, "GRACE", 0.0)
    monkeypatch.setattr(lifeline, "FAREWELL", 1.0)
    lines = []
    make = lambda *of: lines.append(Lifeline(*of)) or lines[-1]  # noqa: E731
    monkeypatch.setattr(rendezvous, "Lifeline", make)
    yield codes
    for line in lines:
        line.started.set()  # a process that would have ended waits no longer


@pytest.fixture
def port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def meeting(port, process, count=2, seconds=5.0):
    """`meet` in a thread: (thread, the list that gets its lifeline or its error)."""
    results = []

    def meet():
        try:
            results.append(rendezvous.meet(f"localhost:{port}", process, count, seconds))
        except UserError as error:
            results.append(error)

    thread = threading.Thread(target=meet, daemon=True)
    thread.start()
    return thread, results


def results(*meetings):
    for thread, _ in meetings:
        thread.join(10)
    return [result for _, (result,) in meetings]


def said(capfd, words):
    """What is on stderr once the words are there."""
    text, deadline = "", time.monotonic() + 5
    while words not in text and time.monotonic() < deadline:
        text += capfd.readouterr().err
        time.sleep(0.02)
    return text


def test_all_meet_and_the_port_is_free_again(port, ends):
    lines = results(*(meeting(port, process, 3) for process in (2, 1, 0)))
    assert [len(line.connections) for line in lines] == [1, 1, 2]
    assert all(line.started.is_set() for line in lines)
    # jax listens there next, while the connections of the lifeline remain
    socket.create_server(("localhost", port)).close()
    for line in lines:
        line.done()
    assert not ends


def test_missing_processes_are_named_and_those_who_came_are_told(port, ends, capfd):
    first, _ = meeting(port, 0, 5, seconds=1.0), meeting(port, 3, 5)
    error = str(results(first)[0])
    assert error.startswith(f"process 0 waited 1 s at localhost:{port} for processes 1, 2, 4 of 5;")
    assert f"there came 3 ({socket.gethostname()})" in error and "--join_timeout" in error
    text = said(capfd, "ends, too")
    assert f"process 0 of 5 (host {socket.gethostname()}) ended: {error}\n" in text
    assert ends == [2]


def test_a_missing_process_0_is_an_error_in_time(port):
    start = time.monotonic()
    with pytest.raises(UserError, match=f"1 of 2 found no process 0 at localhost:{port} in 0.6 s"):
        rendezvous.meet(f"localhost:{port}", 1, 2, 0.6)
    assert time.monotonic() - start < 3


def test_a_host_that_has_no_address_is_named():
    with pytest.raises(UserError, match="no process 0 at no.such.host.invalid:1 in 0.1 s: "):
        rendezvous.meet("no.such.host.invalid:1", 1, 2, 0.1)


def test_a_long_wait_is_said(port, ends, capfd, monkeypatch):
    monkeypatch.setattr(rendezvous, "SILENCE", 0.3)
    first, _ = meeting(port, 0, 3, seconds=1.5), meeting(port, 2, 3)
    results(first)
    text = said(capfd, "ends, too")
    lines = re.findall(rf"2 of 3 processes are at localhost:{port}; waiting for process 1 \(", text)
    assert 1 <= len(lines) <= 3, "each line comes twice as late"
    assert "process 2 is connected to process 0, which waits for others (" in text


def test_a_process_of_another_number_of_them_is_refused(port, ends, capfd):
    first, _ = meeting(port, 0, 2), meeting(port, 1, 3)
    error = str(results(first)[0])
    assert "was started as one of 3 processes, process 0 as one of 2" in error
    assert error in said(capfd, "ends, too") and ends == [2], "the other one ends as well"


def test_two_processes_of_one_number_are_refused(port, ends, capfd):
    first, *_ = meeting(port, 0, 3), meeting(port, 1, 3), meeting(port, 1, 3)
    error = str(results(first)[0])
    host = socket.gethostname()
    assert f"hosts {host} and {host} both say that they are process 1" in error
    assert "--process_id" in error


def test_a_port_that_is_taken_is_said(port):
    with socket.create_server(("", port)), pytest.raises(UserError, match=f"listen at port {port}"):
        rendezvous.meet(f"localhost:{port}", 0, 2, 1.0)


def test_strangers_are_not_listened_to(port, ends):
    first = meeting(port, 0)
    hello = {"process": 1, "count": 2, "host": "x"}
    for line in (b"GET / HTTP/1.1\r\n", b"[1]\n", b'"end"\n', json.dumps(hello).encode() + b"\n"):
        with _connected(port) as stranger:
            stranger.sendall(line)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b"", "closed"
    silent = _connected(port)  # and one who says nothing keeps nobody waiting
    lines = results(first, meeting(port, 1))
    assert [len(line.connections) for line in lines] == [1, 1] and not ends
    silent.close()
    lines[0].done()


def _connected(port):
    """A connection, once process 0 listens."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return socket.create_connection(("localhost", port), timeout=5)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_something_else_that_listens_there_is_no_process_0(port):
    def answer(server):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"\x00\x00 SETTINGS\n")

    with socket.create_server(("localhost", port)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        with pytest.raises(UserError, match="something else listens there"):
            rendezvous.meet(f"localhost:{port}", 1, 2, 0.5)
