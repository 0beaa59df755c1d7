"""Processes that end together: who is killed, fails or is done, and what the others say then. No
jax here."""

import signal
import socket
import subprocess
import sys
import time

import pytest

MEMBER = """
import sys, time
from lfl_jax.core import lifeline, rendezvous

lifeline.GRACE, lifeline.FAREWELL = 0.5, 2.0
line = rendezvous.meet(sys.argv[2], int(sys.argv[1]), 3, 30)
print("connected", flush=True)
order = sys.stdin.readline().strip()
if order == "fail":
    line.fail("the file is missing", 2)
if order == "wait for another's end":
    line.wait_for_other_end(20)
if order == "done":
    line.done()
    sys.exit(0)
time.sleep(60)
"""


@pytest.fixture
def members():
    """Three processes, connected."""
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    start = lambda *words: subprocess.Popen([sys.executable, "-c", MEMBER, *words], **pipes)  # noqa: E731
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    found = [start(str(process), address) for process in range(3)]
    assert [member.stdout.readline() for member in found] == ["connected\n"] * 3
    yield found
    for member in found:
        member.kill()
        member.communicate()


def order(member, words):
    member.stdin.write(words + "\n")
    member.stdin.flush()


def ends(members):
    """(exit code, stderr) of these."""
    return [(member.wait(20), member.stderr.read()) for member in members]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_with_a_line_that_names_it(members, victim):
    start, others = (
        time.monotonic(),
        [member for member in members if member is not members[victim]],
    )
    members[victim].send_signal(signal.SIGKILL)
    for process, (code, said) in zip({0, 1, 2} - {victim}, ends(others), strict=True):
        assert code == 1
        first, second = said.splitlines()
        assert first.startswith(f"error: process {victim} of 3 (host ")
        assert first.endswith("was killed or crashed; its own output may say why")
        assert (
            second
            == f"process {process} ends, too; the same command resumes from the last checkpoint"
        )
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("victim", [0, 2])
def test_an_error_is_told_to_all_and_gives_them_its_exit_code(members, victim):
    order(members[victim], "fail")
    others = [member for member in members if member is not members[victim]]
    order(others[0], "wait for another's end")
    for code, said in ends(others):
        assert code == 2
        assert (
            f"error: process {victim} of 3 (host {socket.gethostname()}) ended: the file is"
            " missing\n" in said
        )
    assert ends([members[victim]]) == [(2, "")], "it says its error itself"


def test_the_same_mistake_of_all_is_not_told_again(members):
    for member in members:
        order(member, "fail")
    assert ends(members) == [(2, "")] * 3


def test_done_is_no_end_to_report(members):
    for member in members:
        order(member, "done")
    assert ends(members) == [(0, "")] * 3
