"""Run generated programs: each in processes of its own, judged by tests that it can neither see nor
reach.

A program is untrusted code and trusted tests. They never share a process: the code runs in one that
holds neither the tests nor the verdict, the tests run in a supervisor outside, and a call of the
tested function is a message between the two, answered by plain data (numbers, texts, sequences,
sets, dicts). So a program passes only when the values it returned make the tests pass. Exiting
early, patching `assert`, builtins or this checker, walking frames, writing a success message or
reading the tests changes nothing, as there is nothing of the kind where the code runs; an object
that claims to equal everything arrives as an object equal to nothing but itself.

What that costs: an argument changed in place is not changed for the test, an object that is no
plain data can be called, listed and passed back but not compared, and only the standard library can
be imported. No test of HumanEval or MBPP needs more.

What remains: code can recognise an argument and return the answer it knows; flaws of the kernel,
which all code here shares, or of the decoder, which is bounds-checked Python; measuring time or
memory to learn about the machine. Everything else that hostile code can do makes it fail: it has at
most `Limits` of the machine, and memory is counted per process, so the worst is processes x
memory_mb. Linux alone; tried on x86_64, written for aarch64, too.
"""

import ast
import marshal
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lfl_jax.errors import UserError

CHILD = Path(__file__).with_name("child.py")
GRACE = 10  # seconds that the supervisor has beyond the program's, on a busy machine
POLICIES = {
    "namespaces": "namespaces (user, process, network, mount): own process tree, no network, no"
    " file but Python's "
    "libraries, read-only, and an empty folder in memory; system calls filtered",
    "seccomp": "weak, no namespaces: system call filter (no new process, signal or socket) and"
    " Landlock (no file "
    "but Python's libraries, read-only, and an empty folder); names and sizes of other files can be"
    " seen",
}


@dataclass(frozen=True)
class Limits:
    """What one program may use. cpu_seconds and memory_mb (address space) hold for each process.

    file_mb: of a file, and with namespaces of all files together. processes: processes and threads,
    those of the
    sandbox (3) among them. output_kb: what is kept of standard output and error together, the rest
    is dropped.
    """

    cpu_seconds: int = 5
    wall_seconds: int = 15
    memory_mb: int = 1024
    file_mb: int = 16
    processes: int = 6
    open_files: int = 32
    output_kb: int = 16


@dataclass(frozen=True)
class Program:
    """Untrusted code, and the tests that decide about it.

    entry_points: names of the code's functions (or other globals) that the tests use; every other
    name in the tests
    is theirs. setup: trusted definitions that the tests use, too; entry points hide those of the
    same name.
    """

    code: str
    tests: str
    entry_points: tuple[str, ...]
    setup: str = ""


@dataclass(frozen=True)
class Verdict:
    """How a program did. reason: "passed", "assertion", "exception: NameError ...", "timeout",
    "memory", "exited early: code 0", "killed by signal 11", "unreadable reply", "the tests called
    nothing"."""

    passed: bool
    reason: str
    seconds: float
    output: str


def policy(allow_weak: bool = False) -> str:
    """The isolation in force on this machine and the default limits, as one line. UserError when
    there is none."""
    limits = Limits()
    return (
        f"{POLICIES[level(allow_weak)]}; {limits.cpu_seconds} s CPU, {limits.wall_seconds} s in"
        " all, "
        f"{limits.memory_mb} MB, {limits.processes} processes"
    )


def level(allow_weak: bool = False) -> str:
    """The strongest isolation that works here: "namespaces", or "seccomp" when weak isolation is
    allowed.

    Raises UserError, with what the kernel refused, when nothing (or nothing strong enough) works.
    """
    refused = _refusal("namespaces")
    if refused is None:
        return "namespaces"
    if not allow_weak:
        raise UserError(
            f"generated code is not run here: no namespaces ({refused}).\nAllow weak isolation to"
            " run it"
        )
    also = _refusal("seccomp")
    if also is not None:
        raise UserError(
            f"generated code is not run here: no namespaces ({refused}), no weak isolation ({also})"
        )
    return "seccomp"


@cache
def _refusal(kind: str) -> str | None:
    """Why this kind of isolation does not work on this machine; None when it does."""
    if sys.platform != "linux":
        return "not Linux"
    program = Program(
        "import heapq\ndef f():\n    return heapq.nlargest(1, [1, 2])", "assert f() == [2]", ("f",)
    )
    try:
        verdict = _run(program, Limits(wall_seconds=30), kind)
    except _Broken as broken:
        return str(broken)
    return None if verdict.passed else verdict.reason


def check(program: Program, limits: Limits = Limits(), allow_weak: bool = False) -> Verdict:
    """Run one program; nothing of it is left when this returns. Raises UserError where it cannot be
    isolated."""
    kind = level(allow_weak)
    try:
        return _run(program, limits, kind)
    except _Broken as broken:
        raise UserError(f"the sandbox ({kind}) stopped working: {broken}") from None


def check_many(
    programs: Sequence[Program],
    limits: Limits = Limits(),
    *,
    workers: int = 2,
    allow_weak: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[int, Verdict]]:
    """Run programs, `workers` at a time; yields (position, verdict) in the order they finish.

    Write each down as it comes and give the rest again to resume. progress(done, total) is called
    after each. Leaving the iterator early ends those in progress and starts no other. Raises
    UserError as `check` does.
    """
    level(allow_weak)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = {
            pool.submit(check, program, limits, allow_weak): i for i, program in enumerate(programs)
        }
        for done, future in enumerate(as_completed(waiting), 1):
            yield waiting[future], future.result()
            progress(done, len(programs))
    finally:
        pool.shutdown(cancel_futures=True)


class _Broken(Exception):
    """The sandbox itself could not be set up."""


def _run(program: Program, limits: Limits, kind: str) -> Verdict:
    with ExitStack() as stack:
        job = {
            "code": program.code,
            "level": kind,
            "parent": os.getpid(),
            "limits": _in_bytes(limits),
        }
        if kind == "seccomp":  # with namespaces the folder is in memory, and nobody else's
            job["work"] = stack.enter_context(
                tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            )
        tests = {
            "setup": program.setup,
            "tests": program.tests,
            "entry_points": list(program.entry_points),
        }
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(CHILD)]
        pipe = subprocess.PIPE
        process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env={},
                cwd="/",
                start_new_session=True,
            )
        )
        try:
            out, err = process.communicate(
                _frame(job) + _frame(tests), timeout=limits.wall_seconds + GRACE
            )
        except subprocess.TimeoutExpired:
            return Verdict(False, "timeout", float(limits.wall_seconds + GRACE), "")
        finally:
            process.kill()  # the kernel ends what it supervised
    return _verdict(out, err, process.returncode)


def _in_bytes(limits: Limits) -> dict[str, int]:
    kept = {
        name: getattr(limits, name)
        for name in ("cpu_seconds", "wall_seconds", "processes", "open_files")
    }
    sizes = {"memory_bytes": limits.memory_mb << 20, "file_bytes": limits.file_mb << 20}
    return kept | sizes | {"output_bytes": limits.output_kb << 10}


def _frame(value: dict) -> bytes:
    data = marshal.dumps(value)
    return struct.pack("<Q", len(data)) + data


def _verdict(out: bytes, err: bytes, code: int) -> Verdict:
    """What the supervisor reported; one that the tests, or a value in them, brought down has
    decided: failed."""
    if not out and code < 0:
        return Verdict(False, f"the tests were killed by signal {-code}", 0.0, "")
    if not out:
        raise _Broken(
            err.decode(errors="replace").strip().rpartition("\n")[2] or f"exit code {code}"
        )
    kind, *found = ast.literal_eval(out.decode())
    if kind == "broken":
        raise _Broken(found[0])
    return Verdict(*found)
