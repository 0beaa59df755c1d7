"""Are two formulas equal? lm-evaluation-harness's answers to that, by sympy and by math_verify.

A child process works them out and is kept for the next question: what a model writes (9^{9^{9^9}})
can make sympy spin in big integers, where no signal handler runs, or take all memory. It is ended
where it overruns, and started anew.
"""

import atexit
import functools
import importlib.metadata
import importlib.util
import json
import selectors
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfl_jax.errors import UserError

CHILD = Path(__file__).with_name("formulas_child.py")
LIBRARIES = {  # distribution: module
    "sympy": "sympy",
    "antlr4-python3-runtime": "antlr4",
    "math-verify": "math_verify",
    "latex2sympy2_extended": "latex2sympy2_extended",
}
START = 120  # seconds that the child has for its imports, on a busy machine
# each may take `seconds`: math_verify reads two texts and compares
PARTS = {"equal": 1, "verify": 3}


@dataclass(frozen=True)
class Verdict:
    """Whether two are equal; trouble: why that was not worked out ("timeout" by the libraries' own
    clock, "memory", "killed after 6 s", "exit code -6"), or ""."""

    equal: bool
    trouble: str


def check() -> None:
    """Raise UserError where a library is missing, or antlr4 is not the one that sympy's LaTeX
    parser was made with."""
    missing = [
        name for name, module in LIBRARIES.items() if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise UserError(
            f"comparing formulas needs {', '.join(missing)}: pip install 'lfl_jax[math]'"
        )
    antlr4 = importlib.metadata.version("antlr4-python3-runtime")
    if not antlr4.startswith("4.11"):
        raise UserError(
            f"comparing formulas needs antlr4-python3-runtime 4.11, not {antlr4}: pip install"
            " 'lfl_jax[math]'"
        )


def versions() -> dict[str, str]:
    """Of the libraries that decide."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


class Comparer:
    """Answers questions, one at a time; `close` ends its child process.

    seconds: whole ones, of wall time, which the harness too gives each part of a comparison.
    memory_mb: address space.
    """

    def __init__(self, seconds: int = 5, memory_mb: int = 2048) -> None:
        self.seconds, self.memory_mb = seconds, memory_mb
        self._process: subprocess.Popen | None = None

    def equal(self, answer: str, gold: str) -> Verdict:
        """The harness's `is_equiv` of two normalised answers: their difference simplifies to 0."""
        return self._ask("equal", answer, gold)

    def verify(self, text: str, solution: str) -> Verdict:
        """What math_verify finds in a generated text and in the gold solution is the same."""
        return self._ask("verify", text, solution)

    def close(self) -> None:
        """End the child; the next question starts another."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _ask(self, kind: str, *texts: str) -> Verdict:
        if self._process and self._process.poll() is not None:
            self.close()
        self._process = process = self._process or _start()
        # the child gives up by itself before that where it can
        wall = PARTS[kind] * self.seconds + 1
        limits = {"seconds": self.seconds, "cpu_seconds": wall, "memory_mb": self.memory_mb}
        verdict = None
        try:
            verdict = _answer(process, {"kind": kind, "texts": texts} | limits, wall)
        finally:  # what was interrupted has not answered, either
            if verdict is None or verdict.trouble not in ("", "timeout"):
                self.close()
        return verdict


@functools.cache
def shared() -> Comparer:
    """The one of this process, ended with it."""
    comparer = Comparer()
    atexit.register(comparer.close)
    return comparer


def _start() -> subprocess.Popen:
    # -P: requests and stats are not those of this folder. A session of its own: Ctrl-C is ours.
    command, pipe = [sys.executable, "-P", "-X", "utf8", str(CHILD)], subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True
    )
    if _line(process, START) != b'"ready"\n':
        _end(process)
        raise UserError(
            f"the process that compares formulas does not start; see why: {' '.join(command)}"
        )
    return process


def _end(process: subprocess.Popen) -> None:
    process.kill()
    with process:  # closes the pipes and waits
        pass


def _answer(process: subprocess.Popen, question: dict[str, Any], seconds: int) -> Verdict:
    process.stdin.write(json.dumps(question).encode() + b"\n")
    process.stdin.flush()
    line = _line(process, seconds)
    if line is None:
        return Verdict(False, f"killed after {seconds} s")
    return Verdict(**json.loads(line)) if line else Verdict(False, f"exit code {process.wait()}")


def _line(process: subprocess.Popen, seconds: int) -> bytes | None:
    """The next line of its output, empty where it has ended; None where nothing comes within so
    many seconds."""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(seconds) else None
