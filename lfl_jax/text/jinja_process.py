"""The process that renders chat templates (`jinja_child`): started once, ended when it takes long.

A request takes 0.1 ms more than rendering in this process would. A thread could not be stopped in
the middle of a template, and no count of steps bounds what one multiplication allocates.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.text import jinja_child

SECONDS, START_SECONDS = 5.0, 120.0  # for a text, and to begin on a machine that does much else
TICK = 0.5  # a process that was suspended has lost one of these, and not its time


def rendered(request: dict[str, Any]) -> str:
    """The text of a request as `jinja_child` takes it; UserError with the template's words."""
    # A fork must not talk with its parent's process.
    answer = _renderer(os.getpid()).ask(request)
    if "error" in answer:
        raise UserError(f"the tokenizer's chat template: {answer['error']}")
    return answer["text"]


@functools.cache
def _renderer(pid: int) -> "_Renderer":
    renderer = _Renderer()
    atexit.register(renderer.close)
    return renderer


class _Renderer:
    """The process and its pipes; one thread asks at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._lock, self._rest = threading.Lock(), b""

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        """The answer, or that there was none in time; the next request gets another process."""
        with self._lock:
            try:
                process = self._started()
                process.stdin.write(json.dumps(request).encode() + b"\n")
                line = self._line(process, SECONDS)
            except BrokenPipeError:
                line = b""
            # After Ctrl-C an answer would be left in the pipe, which is none to the next request.
            except BaseException:
                self.close()
                raise
            if line is None or not line:
                self.close()
                reason = "ended the process that rendered it" if line == b"" else "takes too long"
                return {"error": f"it {reason}"}
            return json.loads(line)

    def _started(self) -> subprocess.Popen:
        if self._process is None:
            # No -S: jinja2 is a package of this environment.
            command = [sys.executable, "-I", str(Path(jinja_child.__file__)), json.dumps(sys.path)]
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._line(self._process, START_SECONDS)
        return self._process

    def _line(self, process: subprocess.Popen, seconds: float) -> bytes | None:
        """The next line; b"" where the process has ended, None where none comes in time."""
        ticks = int(seconds / TICK)
        while b"\n" not in self._rest:
            if not select.select([process.stdout], [], [], TICK)[0]:
                ticks -= 1
                if not ticks:
                    return None
                continue
            data = os.read(process.stdout.fileno(), 1 << 20)
            if not data:
                return b""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line + b"\n"

    def close(self) -> None:
        """End the process."""
        process, self._process, self._rest = self._process, None, b""
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
