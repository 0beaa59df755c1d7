"""The process that reads and compares formulas for `evals.formulas`: JSON lines in and out, under
limits.

Run by path and without lfl_jax. Its first line says that it is ready; then a line {"kind", "texts",
"seconds", "cpu_seconds", "memory_mb"} is answered by {"equal", "trouble"}.
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
    """is_equiv of lm-evaluation-harness's minerva_math: the same text, or a difference that
    simplifies to 0.

    What cannot be read or subtracted (intervals, tuples, sentences) is not equal.
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
    except Exception:  # whatever a parser or sympy thinks of what a model wrote
        return False, ""
    finally:
        signal.alarm(0)


def verify(text: str, solution: str, seconds: int) -> tuple[bool, str]:
    """The second metric of the harness's minerva_math: what math_verify finds in two whole texts is
    the same.

    The library gives up after `seconds` at each text and at each pair of formulas, and only logs
    it.
    """
    import math_verify

    gave_up = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = gave_up.append
    log = logging.getLogger("math_verify")
    log.addHandler(handler)
    try:
        gold, target = (
            math_verify.parse(each, parsing_timeout=seconds) for each in (solution, text)
        )
        same = bool(math_verify.verify(gold, target, timeout_seconds=seconds))
    finally:
        log.removeHandler(handler)
    return same, "timeout" if gave_up and not same else ""


KINDS = {"equal": equal, "verify": verify}


def limit(seconds: int, memory_mb: int) -> None:
    """So much processor time from now on, and memory in all; the kernel sees to it where no signal
    handler runs."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    for kind, most in (
        (resource.RLIMIT_CPU, spent + seconds),
        (resource.RLIMIT_AS, memory_mb << 20),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(
            kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )


def main() -> None:
    """Answer questions until there are no more."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # antlr4 prints to standard output
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # imports and tables, outside the limits
    KINDS["equal"]("1", "2", 60), KINDS["verify"]("$1$", "$2$", 60)
    print(json.dumps("ready"), file=replies, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        limit(question["cpu_seconds"], question["memory_mb"])
        same, trouble = KINDS[question["kind"]](*question["texts"], question["seconds"])
        print(json.dumps({"equal": same, "trouble": trouble}), file=replies, flush=True)


if __name__ == "__main__":
    main()
