"""What a run wants its reader to know although it goes on: `warning: ...` on stderr, and in its
results.

    notices.warn("config.optim.warmup_steps=100 is longer than the run of 6 steps: the peak is never
    reached")

One line, in the reader's words: what was given, what follows from it, what to set. A mistake that
leaves nothing to go on with is a `UserError` instead. Only the first of several processes prints;
no module of the package is needed.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator

from lfl_jax.errors import printable

LOGGER = logging.getLogger(__name__)


def warn(text: str) -> None:
    """Say this once more in the results, and now on stderr."""
    # On one line, whatever an error inside of the text brought along.
    LOGGER.warning(" ".join(text.split()))


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """The texts of warnings given inside, each once, in order, for a run's results."""
    texts: list[str] = []
    handler = _Collect(texts)
    LOGGER.addHandler(handler)
    try:
        yield texts
    finally:
        LOGGER.removeHandler(handler)


class _Collect(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        # A warning of every step is one fact of the run.
        if (text := record.getMessage()) not in self._texts:
            self._texts.append(text)


class _Print(logging.Handler):
    """To the stderr of the moment (tests and notebooks replace it), each text once in a row."""

    _last = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(record.getMessage())
        if is_first_process() and text != self._last:
            print(f"warning: {text}", file=sys.stderr, flush=True)
        self._last = text


def is_first_process() -> bool:
    """Whether this is the process that prints.

    JAX is asked only where several processes have found each other.
    """
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


LOGGER.addHandler(_Print())
LOGGER.setLevel(logging.WARNING)
# else the logging of an entry point would say it again, and on every process
LOGGER.propagate = False
