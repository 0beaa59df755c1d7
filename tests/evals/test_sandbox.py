"""The sandbox against programs that harm the machine or pass without solving anything (hostile/)."""

import ctypes
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from evals.hostile.programs import PROGRAMS, QUICK

from lfl_jax.errors import UserError
from lfl_jax.evals import sandbox
from lfl_jax.evals.sandbox import Limits, Program

LOW = Limits(cpu_seconds=1, wall_seconds=10, memory_mb=160, file_mb=4, processes=6, output_kb=4)
# for what only the clock stops; the others may wait for a busy machine
SHORT = replace(LOW, wall_seconds=2)
TESTS = "word = 'LFLTOKEN'\nassert f(1) == 2\nassert f(2) == 3"
RIGHT = "def f(x):\n    return x + 1"
LEVELS = ("namespaces", "seccomp")
SUBREAPER = 36
# What the weaker level does otherwise: processes and threads cannot be started, signals not be
# sent, even to oneself.
OTHERWISE = {
    "a crash through faulthandler": "exception: NameError|killed by signal",
    "an exit through faulthandler": "exception: RuntimeError",
    "stopping itself": "exception: PermissionError",
    "a daemon": "exception: PermissionError",
    "a daemon whose parent exits": "exception: PermissionError",
    "an abort": "killed by signal",
    "a large file": "exception: OSError .*too large",
    "fork bomb": "timeout",
    "killing its group": "exception: PermissionError",
    "a child in a session of its own": "exception: PermissionError",
    "prctl": "exception: PermissionError",
}
UNBOUNDED = {"many large files", "many files"}  # which only a file system of its own can stop
GROUPS = {
    "namespaces": ("namespaces", PROGRAMS),
    "weak": ("seccomp", QUICK),
    "weak, exhausting": (
        "seccomp",
        {n: p for n, p in PROGRAMS.items() if n not in UNBOUNDED | set(QUICK)},
    ),
}
MARKS = {"weak": [pytest.mark.slow], "weak, exhausting": [pytest.mark.slow]}  # 15 s each


def need(level: str) -> str:
    refused = sandbox._refusal(level)
    if refused is not None:
        pytest.skip(f"no {level} on this machine: {refused}")
    return level


def children() -> set[int]:
    """Processes whose parent is this one: as it is their subreaper, all that outlived theirs."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry.name))
    return found


@pytest.fixture(scope="module")
def attack(tmp_path_factory):
    """Runs each hostile program of a group, once: the verdicts, and what was seen of it from
    outside."""
    return cache(lambda group: run_group(*GROUPS[group], tmp_path_factory))


def run_group(level, hostile, tmp_path_factory):
    need(level)
    canary = tmp_path_factory.mktemp("outside") / "canary"
    canary.write_text("CANARY")
    canary.chmod(0o644)
    before = {path: path.stat().st_mtime_ns for path in canary.parent.iterdir()}
    folders = tmp_path_factory.mktemp("folders")
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LFL_SECRET", "CANARY")
        patch.setattr(tempfile, "tempdir", str(folders))
        patch.setattr(sandbox, "level", lambda allow_weak=False: level)
        values = {
            "canary": str(canary),
            "port": server.getsockname()[1],
            "token": "''.join(['LFL', 'TOKEN'])",
            "kill": 9 if level == "namespaces" else 0,
        }
        endless = [name for name in hostile if "timeout" in hostile[name][1]]
        batches = [(endless, SHORT), ([name for name in hostile if name not in endless], LOW)]
        had = children()
        ctypes.CDLL(None).prctl(SUBREAPER, 1)
        verdicts = {}
        for names, limits in batches:
            programs = [Program(hostile[name][0].format(**values), TESTS, ("f",)) for name in names]
            verdicts |= {
                names[i]: verdict for i, verdict in sandbox.check_many(programs, limits, workers=2)
            }
        left = children() - had
        ctypes.CDLL(None).prctl(SUBREAPER, 0)
        server.settimeout(0.1)
        try:
            server.accept()[0].close()
            connected = True
        except TimeoutError:
            connected = False
    after = {path: path.stat().st_mtime_ns for path in canary.parent.iterdir()}
    return (
        level,
        verdicts,
        {
            "left": left,
            "folders": list(folders.iterdir()),
            "connected": connected,
            "before": before,
            "after": after,
            "canary": canary,
        },
    )


def test_there_are_enough_hostile_programs():
    assert len(PROGRAMS) >= 80


@pytest.mark.parametrize(
    ("group", "name"),
    [
        pytest.param(group, name, marks=MARKS.get(group, []))
        for group in GROUPS
        for name in GROUPS[group][1]
    ],
)
def test_a_hostile_program_fails_and_for_the_reason_it_should(attack, group, name):
    level, verdicts, _ = attack(group)
    verdict, (_, reason, output) = verdicts[name], PROGRAMS[name]
    assert not verdict.passed
    if level == "seccomp" and name in OTHERWISE:
        reason, output = OTHERWISE[name], ""
    assert re.match(reason, verdict.reason), verdict
    assert re.search(output, verdict.output), verdict
    assert "CANARY" not in verdict.output and "CANARY" not in verdict.reason
    assert len(verdict.output) <= LOW.output_kb << 10
    assert verdict.seconds < LOW.wall_seconds + 3


@pytest.mark.parametrize(
    "group", [pytest.param(group, marks=MARKS.get(group, [])) for group in GROUPS]
)
def test_hostile_programs_leave_no_process_and_no_file_and_reach_no_server(attack, group):
    _, _, seen = attack(group)
    assert seen["left"] == set() and not seen["connected"]
    assert seen["folders"] == []
    assert seen["before"] == seen["after"]
    assert seen["canary"].read_text() == "CANARY" and seen["canary"].stat().st_mode & 0o777 == 0o644
    assert not Path("/tmp/lfl-hostile").exists()


def test_outside_of_a_sandbox_the_attacks_work(tmp_path):
    """Otherwise their failing says nothing: the same programs in a plain Python reach what they are
    after."""
    canary = tmp_path / "canary"
    canary.write_text("CANARY")
    for name in ("reading a file", "a symbolic link to a file", "leaving the folder by dots"):
        code = PROGRAMS[name][0].format(canary=str(canary), port=0, token="''", kill=0)
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
        )
        assert "CANARY" in done.stdout, name


def test_what_outlives_its_parent_is_noticed():
    """`children` sees an orphan of an orphan, which the tests above say there is none of."""
    had = children()
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(30)\n"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=20)
    left = children() - had
    ctypes.CDLL(None).prctl(SUBREAPER, 0)
    assert len(left) == 1
    os.kill(min(left), 9)
    os.waitpid(min(left), 0)


@pytest.mark.parametrize("level", LEVELS)
def test_a_right_program_passes_and_a_wrong_one_does_not(level, monkeypatch):
    need(level)
    monkeypatch.setattr(sandbox, "level", lambda allow_weak=False: level)
    right, wrong = (
        sandbox.check(Program(code, TESTS, ("f",)), LOW) for code in (RIGHT, RIGHT + "0")
    )
    assert (right.passed, right.reason) == (True, "passed") and 0 < right.seconds < LOW.wall_seconds
    assert (wrong.passed, wrong.reason) == (False, "assertion")


VALUES = [
    None, True, False, 0, -1, 2**200, -(2**70), 0.1, -0.0, float("inf"), 1e-310, 1 + 2j, "", "é\ud800\0", b"\0\xff",
    bytearray(b"x"), [], [1, [2, (3,)]], (), ((),), {1, 2}, frozenset({(1, 2)}), {"a": {2: [3]}, (1,): None},
    range(3, 9, 2),
]  # fmt: skip


def test_plain_data_arrives_as_it_was():
    need("namespaces")
    tests = f"for x in {VALUES!r}:\n    y = f(x)\n    assert repr(y) == repr(x) and type(y) is type(x), x".replace(
        "inf,", "float('inf'),"
    )
    verdict = sandbox.check(Program("def f(x):\n    return x", tests, ("f",)))
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("from collections import Counter\ndef f():\n    return"
         " Counter('aab')", "assert f() == {'a': 2, 'b': 1}"),
        ("from collections import namedtuple as n\ndef f():\n    return n('P', 'x y')(1,"
         " 2)", "assert f() == (1, 2)"),
        ("def f():\n    return {1: 2}.keys()", "assert f() == {1}"),
        ("from decimal import Decimal\ndef f():\n    return Decimal('0.5')", "assert f() == 0.5"),
        ("from fractions import Fraction\ndef f():\n    return Fraction(1,"
         " 2)", "assert f() == 0.5"),
        ("def f():\n    yield from (1, 2)", "assert list(f()) == [1, 2] and f() != [1, 2]"),
        ("def f(*a, k):\n    return a, k", "assert f(1, 2, k=3) == ((1, 2), 3)"),
        ("def f():\n    raise KeyError('x')", "try:\n    f()\nexcept KeyError:\n    ok ="
                                              " True\nassert ok"),
        ("def f():\n    return b''.decode.__self__.fromhex('zz')",
         "try:\n    f()\nexcept ValueError:\n    ok = True\nassert ok"),
        ("def f():\n    return lambda x: x + 1", "assert f()(1) == 2"),
        ("class f:\n    def __init__(self, x):\n        self.x = x\n    def __call__(self,"
         " other):\n"
         "        return self.x + other.x", "assert f(1)(f(2)) == 3"),
        ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: 'int' = 1\ndef f():\n"
         "    return P().x",
         "assert f() == 1"),
    ],
)  # fmt: skip
def test_what_correct_programs_return_can_be_tested(code, tests):
    need("namespaces")
    verdict = sandbox.check(Program(code, tests, ("f",)), LOW)
    assert verdict.passed, verdict


@pytest.mark.parametrize("level", LEVELS)
def test_a_program_may_close_its_output(level, monkeypatch):
    need(level)
    monkeypatch.setattr(sandbox, "level", lambda allow_weak=False: level)
    code = "import os\nprint('before', flush=True)\nos.close(1)\nos.close(2)\n" + RIGHT
    verdict = sandbox.check(Program(code, TESTS, ("f",)), LOW)
    assert (verdict.reason, verdict.output) == ("passed", "before\n")


def test_a_request_that_is_never_read_ends_with_the_time():
    """It is longer than a pipe, so writing it would wait for ever."""
    need("namespaces")
    code = "import __main__, time\n__main__.write(4, b'vN')\ntime.sleep(60)"
    verdict = sandbox.check(Program(code, "f('x' * 300000)", ("f",)), SHORT)
    assert verdict.reason == "timeout" and verdict.seconds < SHORT.wall_seconds + 1


def test_large_arguments_arrive():
    need("namespaces")
    program = Program("def f(x):\n    return len(x)", "assert f('x' * 10**6) == 10**6", ("f",))
    assert sandbox.check(program, LOW).reason == "passed"


def test_an_exception_s_name_is_cut():
    need("namespaces")
    code = "import __main__\nname = 'A' * 10**6\n"
    code += "__main__.write(4, b'e' + __main__.encode((name, name), None))"
    verdict = sandbox.check(Program(code, "f()", ("f",)), LOW)
    assert verdict.reason == f"exception: {'A' * 100} {'A' * 200}"


def test_tests_that_call_nothing_do_not_pass():
    need("namespaces")
    assert (
        sandbox.check(Program(RIGHT, "assert True", ("f",)), LOW).reason
        == "the tests called nothing"
    )


def test_helpers_of_the_tests_are_not_those_of_the_program():
    """A program that redefines what the tests compute with is judged by theirs."""
    need("namespaces")
    code = "def close(a, b):\n    return True\ndef f(x):\n    return 9"
    setup = "def close(a, b):\n    return abs(a - b) < 1\ndef f(x):\n    return 2"
    assert (
        sandbox.check(Program(code, "assert close(f(1), 2)", ("f",), setup), LOW).reason
        == "assertion"
    )
    assert sandbox.check(Program(code, "assert close(f(1), 2)", ("f", "close"), setup), LOW).passed


def test_an_error_a_program_cannot_cause_is_not_a_verdict(monkeypatch):
    need("namespaces")
    monkeypatch.setattr(sandbox, "CHILD", Path("/nowhere/child.py"))
    with pytest.raises(UserError, match="stopped working"):
        sandbox.check(Program(RIGHT, TESTS, ("f",)), LOW)


def test_without_namespaces_nothing_runs_unless_weak_isolation_is_allowed(monkeypatch):
    monkeypatch.setattr(
        sandbox, "_refusal", lambda kind: "forbidden" if kind == "namespaces" else None
    )
    with pytest.raises(UserError, match=r"forbidden.*\n.*weak"):
        sandbox.policy()
    assert "weak, no namespaces" in sandbox.policy(allow_weak=True)
    monkeypatch.setattr(sandbox, "_refusal", lambda kind: f"{kind} forbidden")
    with pytest.raises(UserError, match="namespaces forbidden.*seccomp forbidden"):
        sandbox.check(Program(RIGHT, TESTS, ("f",)), LOW, allow_weak=True)


def test_the_policy_is_one_printable_line():
    need("namespaces")
    assert (
        "namespaces" in sandbox.policy()
        and "\n" not in sandbox.policy()
        and sandbox.policy().isprintable()
    )


def test_many_are_run_side_by_side_and_what_is_finished_is_seen_at_once():
    need("namespaces")
    sleeper = Program("import time\ntime.sleep(9)", TESTS, ("f",))
    seen, began = [], time.monotonic()
    progress = []
    for i, verdict in sandbox.check_many(
        [sleeper, *[Program(RIGHT, TESTS, ("f",))] * 3],
        replace(LOW, wall_seconds=4),
        progress=lambda *counts: progress.append(counts),
    ):
        seen.append((i, verdict.reason, time.monotonic() - began))
    assert [i for i, _, _ in seen][-1] == 0 and sorted(i for i, _, _ in seen) == [0, 1, 2, 3]
    assert {reason for i, reason, _ in seen if i} == {"passed"} and seen[-1][1] == "timeout"
    assert seen[0][2] < 4 and progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_leaving_early_starts_no_other_program():
    need("namespaces")
    slow = Program("import time\ntime.sleep(1)\n" + RIGHT, TESTS, ("f",))
    began = time.monotonic()
    for _ in sandbox.check_many([slow] * 40, LOW, workers=2):
        break
    assert time.monotonic() - began < 15


def test_a_sandbox_whose_owner_dies_dies_too(tmp_path):
    need("namespaces")
    code = (
        "from lfl_jax.evals.sandbox import Program, check\n"
        "check(Program('import time\\nprint(1)\\ntime.sleep(60)', 'f()', ('f',)))"
    )
    had = children()
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen([sys.executable, "-c", code], env=environment)
    supervisor = f"/proc/{owner.pid}/task/{owner.pid}/children"
    deadline = time.monotonic() + 60
    while len(Path(supervisor).read_text().split()) < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    owner.kill()
    owner.wait()
    time.sleep(0.5)
    left = {pid for pid in children() - had if os.waitpid(pid, os.WNOHANG)[0] == 0}
    ctypes.CDLL(None).prctl(SUBREAPER, 0)
    assert left == set()
