"""The sandbox with programs that may be run: what they return, how they end, what it costs them."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from evals.hostile.attack import LOW, TESTS

from lfl_jax.errors import UserError
from lfl_jax.evals import sandbox
from lfl_jax.evals.sandbox import Program

RIGHT = "def f(x):\n    return x + 1"
LEVELS = ("namespaces", "seccomp")


def need(level: str) -> str:
    refused = sandbox._refusal(level)
    if refused is not None:
        pytest.skip(f"no {level} on this machine: {refused}")
    return level


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


def test_large_arguments_arrive():
    need("namespaces")
    program = Program("def f(x):\n    return len(x)", "assert f('x' * 10**6) == 10**6", ("f",))
    assert sandbox.check(program, LOW).reason == "passed"


def test_an_exception_s_name_is_cut():
    need("namespaces")
    code = "import wire\nname = 'A' * 10**6\n"
    code += "wire.write(4, b'e' + wire.encode((name, name), None))"
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
