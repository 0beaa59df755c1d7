"""The process that compares formulas for `formulas`, under limits: JSON lines in and out.

Run by path and without lfl_jax. Its first line says that it is ready. Then each line {"kind",
"texts", "seconds", "cpu_seconds", "memory_mb"} is answered by a line {"equal", "trouble"}.
"""

import json
import logging
import os
import resource
import signal
import sys


class Overrun(BaseException):
    """The time of a comparison is up; no `except Exception` on the way can swallow it."""


def equal(answer: str, gold: str, seconds: int) -> tuple[bool, str]:
    """is_equiv of lm-evaluation-harness's minerva_math; (equal, trouble).

    Equal are the same text, and formulas whose difference simplifies to 0. Texts that cannot be
    parsed or subtracted (intervals, tuples, sentences) are not.
    """
    import sympy
    from sympy.parsing.latex import parse_latex

    def overrun(signum, frame):
        raise Overrun

    if answer and answer == gold:
        return True, ""
    signal.signal(signal.SIGALRM, overrun)
    signal.alarm(seconds)
    try:
        return bool(sympy.simplify(parse_latex(answer) - parse_latex(gold)) == 0), ""
    except Overrun:
        return False, "timeout"
    except MemoryError:
        return False, "memory"
    except Exception:  # a generated text makes parser and sympy raise errors of every kind
        return False, ""
    finally:
        signal.alarm(0)


def verify(text: str, solution: str, seconds: int) -> tuple[bool, str]:
    """The second metric of the harness's minerva_math: math_verify on two whole texts.

    The library gives up after `seconds` for each text and each pair of formulas.
    """
    import math_verify

    # Giving up is only logged, so the log tells an undecided pair from an unequal one.
    gave_up = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = gave_up.append
    log = logging.getLogger("math_verify")
    log.addHandler(handler)
    try:
        gold = math_verify.parse(solution, parsing_timeout=seconds)
        target = math_verify.parse(text, parsing_timeout=seconds)
        same = bool(math_verify.verify(gold, target, timeout_seconds=seconds))
    finally:
        log.removeHandler(handler)
    return same, "timeout" if gave_up and not same else ""


KINDS = {"equal": equal, "verify": verify}


def limit(seconds: int, memory_mb: int) -> None:
    """Limit processor time from now on, and memory; the kernel enforces both."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1  # the kernel counts from the process's start
    lower_limit(resource.RLIMIT_CPU, spent + seconds)
    lower_limit(resource.RLIMIT_AS, memory_mb << 20)


def lower_limit(kind: int, value: int) -> None:
    """Set a soft limit, at most to the hard one, so that the next pair may raise it again."""
    _, hard = resource.getrlimit(kind)
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (soft, hard))


def main() -> None:
    """Answer lines until there are no more."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # antlr4 prints to standard output
    # No file for each process that the kernel kills.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Imports and parser tables, before the first limits: they take longer than most comparisons.
    KINDS["equal"]("1", "2", 60)
    KINDS["verify"]("$1$", "$2$", 60)
    print(json.dumps("ready"), file=replies, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        limit(question["cpu_seconds"], question["memory_mb"])
        same, trouble = KINDS[question["kind"]](*question["texts"], question["seconds"])
        print(json.dumps({"equal": same, "trouble": trouble}), file=replies, flush=True)


if __name__ == "__main__":
    main()
