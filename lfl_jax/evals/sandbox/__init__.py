"""Runs untrusted programs, such as solutions of HumanEval, against tests they cannot reach.

A program is untrusted code and trusted tests, and the two never share a process. The code runs in
one that has neither the tests nor the verdict. The tests run in a supervisor. A call of the tested
function is a message from one to the other; what it returns comes back as plain data.

What is covered, for each program:
- Limits of processor time, wall time, memory, processes, files and output (`Limits`). Time that a
  program waits for a processor, on a busy machine, is no wall time.
- No network, no other process, no file but Python's libraries, read-only, and one empty folder.
- System calls are refused but for those of a list, so that newer kernels add none. No process and
  no file outlives the program, whoever of its owner, supervisor and keeper is killed.
- A program passes only when the values it returned satisfy the tests. Leaving early, patching
  `assert` or builtins, walking frames and writing a success message change nothing, since there is
  nothing of the kind where the code runs. An object that claims to equal everything arrives as an
  object equal to nothing but itself.

What is not covered:
- Code that recognises an argument and returns the answer it remembers.
- Flaws of the kernel, which all code on the machine shares, or of the decoder of returned values.
- Measuring time or memory to learn about the machine. Memory is limited for each process, so a
  program can use processes x memory_mb.
- Machines without namespaces (many containers). Nothing is run there, unless weak isolation is
  allowed: names and sizes of files can then be seen. The disk is watched there: a program that has
  written more than file_mb, or 1024 files, is ended about 0.02 s later, whatever it wrote by then.
- Killing all processes at once at the weak level leaves a program's folder behind.

What it costs: an argument changed in place is not changed for the test. An object that is no plain
data can be called, iterated over and passed back, but not compared. Only the standard library can
be imported. No test of HumanEval or MBPP needs more. Linux only.

Files, in the order of a program's way: `child` and `supervisor` (the trusted side), `keeper` (ends
and tidies), `untrusted` (runs the code), `channel` and `wire` (the messages between them), `clock`
and `folder` (time and disk), `isolation`, `seccomp` and `calls` (what the kernel enforces).
"""

import ast
import marshal
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lfl_jax.errors import UserError
from lfl_jax.evals.sandbox import folder
from lfl_jax.evals.sandbox.wire import framed

CHILD = Path(__file__).with_name("child.py")
# Waiting for a processor is no wall time: on a busy machine a program may take up to so many times
# its wall seconds.
BUSY = 10
# The supervisor enforces the wall time itself; this is for one that does not answer at all.
GRACE = 10  # seconds that the supervisor has beyond the program's
LONGEST_REASON = 400  # characters
FLAG = "--config.eval.allow_weak_sandbox=True"
POLICIES = {
    "namespaces": (
        "namespaces (user, process, network, mount): own process tree, no network, no file but"
        " Python's libraries, read-only, and an empty folder in memory; few system calls"
    ),
    "seccomp": (
        "weak, no namespaces: few system calls (no new process, signal or socket) and Landlock"
        " (no file but Python's libraries, read-only, and an empty folder, watched); names and"
        " sizes of other files can be seen"
    ),
}


@dataclass(frozen=True)
class Limits:
    """Limits of one program; cpu_seconds and memory_mb (address space) are of each process.

    file_mb: of a file, and of all files together. processes: processes and threads,
    the sandbox's own three among them. output_kb: how much of standard output and error together is
    recorded.
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
    name in the tests is theirs. setup: trusted definitions that the tests use, too; an entry point
    replaces a definition of the same name.
    """

    code: str
    tests: str
    entry_points: tuple[str, ...]
    setup: str = ""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one program.

    seconds: wall time. output: standard output and error together, up to its limit.
    reason: "passed", "assertion", "exception: NameError ...", "timeout", "memory", "disk", "exited
    early: code 0", "killed by signal 11", "unreadable reply" or "the tests called nothing".
    """

    passed: bool
    reason: str
    seconds: float
    output: str


def policy(allow_weak: bool = False) -> str:
    """The isolation of this machine and the default limits, in a line; UserError without any."""
    limits = Limits()
    return (
        f"{POLICIES[level(allow_weak)]}; {limits.cpu_seconds} s CPU, {limits.wall_seconds} s in"
        f" all, {limits.memory_mb} MB, {limits.processes} processes"
    )


def level(allow_weak: bool = False) -> str:
    """The strongest isolation that works on this machine: "namespaces", or else "seccomp".

    The second is weaker and only returned where weak isolation is allowed. Raises UserError, with
    what the kernel refused, when nothing (or nothing strong enough) works.
    """
    no_namespaces = _refusal("namespaces")
    if no_namespaces is None:
        return "namespaces"
    if not allow_weak:
        raise UserError(
            f"generated code is not run here: no namespaces ({no_namespaces}).\n{FLAG} runs it"
            " with weak isolation"
        )
    no_seccomp = _refusal("seccomp")
    if no_seccomp is not None:
        raise UserError(
            f"generated code is not run here: no namespaces ({no_namespaces}), no weak isolation"
            f" ({no_seccomp})"
        )
    return "seccomp"


@cache
def _refusal(kind: str) -> str | None:
    """The reason why this isolation does not work on this machine, or None."""
    if sys.platform != "linux":
        return "not Linux"
    # The import shows that the libraries can be read from inside.
    code = "import heapq\ndef f():\n    return heapq.nlargest(1, [1, 2])"
    try:
        verdict = _run(Program(code, "assert f() == [2]", ("f",)), Limits(wall_seconds=30), kind)
    except _Broken as broken:
        return str(broken)
    return None if verdict.passed else verdict.reason


def check(program: Program, limits: Limits = Limits(), allow_weak: bool = False) -> Verdict:
    """Run one program to its end; UserError where it cannot be isolated."""
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
    """Run programs, `workers` at a time; yields (index, verdict) in the order they finish.

    To resume, record each as it comes and pass only the others again. progress(done, total) is
    called after each. Leaving the iterator early ends the programs in progress and starts no other.
    Raises UserError as `check` does.
    """
    level(allow_weak)
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {
            pool.submit(check, program, limits, allow_weak): i for i, program in enumerate(programs)
        }
        for done, future in enumerate(as_completed(futures), 1):
            yield futures[future], future.result()
            progress(done, len(programs))
    finally:  # also where the caller leaves the loop early
        pool.shutdown(cancel_futures=True)


class _Broken(Exception):
    """The sandbox itself could not be set up."""


def _run(program: Program, limits: Limits, kind: str) -> Verdict:
    job = {"code": program.code, "level": kind, "parent": os.getpid(), "limits": _in_bytes(limits)}
    entry_points = list(program.entry_points)
    tests = {"setup": program.setup, "tests": program.tests, "entry_points": entry_points}
    with ExitStack() as stack:
        if kind == "seccomp":  # with namespaces the folder is in memory, and nobody else sees it
            temporary = os.path.realpath(tempfile.gettempdir())
            job["work"] = os.path.join(temporary, f"lfl-sandbox-{secrets.token_hex(8)}")
            stack.callback(_remove, job["work"])  # as the keeper has, unless it was killed
        # The child reads the second frame after the fork, so that the code's process never has it.
        frames = framed(marshal.dumps(job)) + framed(marshal.dumps(tests))
        process = stack.enter_context(_start_child())
        seconds = BUSY * limits.wall_seconds + GRACE
        try:
            out, err = process.communicate(frames, timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()  # the keeper then ends the rest, and with itself standard error
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=GRACE)
            return Verdict(False, "timeout", float(seconds), "")
        finally:
            process.kill()
    return _verdict(out, err, process.returncode)


def _remove(work: str) -> None:
    with suppress(OSError):  # a keeper may be at it, where the program was left early
        folder.remove(work)


def _start_child() -> subprocess.Popen:
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(CHILD)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env={}, cwd="/", start_new_session=True
    )


def _in_bytes(limits: Limits) -> dict[str, int]:
    counts = ("cpu_seconds", "wall_seconds", "processes", "open_files")
    return {
        **{name: getattr(limits, name) for name in counts},
        "longest_seconds": BUSY * limits.wall_seconds,
        "memory_bytes": limits.memory_mb << 20,
        "file_bytes": limits.file_mb << 20,
        "output_bytes": limits.output_kb << 10,
    }


def _verdict(out: bytes, err: bytes, code: int) -> Verdict:
    """The supervisor's report; failed where the tests, or a value in them, brought it down."""
    if not out and code < 0:
        return Verdict(False, f"the tests were killed by signal {-code}", 0.0, "")
    if not out:
        last_line = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise _Broken(last_line or f"exit code {code}")
    try:
        # A literal, as the output may hold any text; read without running it.
        kind, *report = ast.literal_eval(out.decode())
        if kind != "broken":
            passed, reason, seconds, output = report
            return Verdict(passed is True, _printable(reason), float(seconds), output)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return Verdict(False, "unreadable verdict", 0.0, "")
    raise _Broken(report[0])


def _printable(text: str) -> str:
    """Text for a line of a terminal or a file in UTF-8: a program may have chosen any of it."""
    text = text[:LONGEST_REASON]
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
