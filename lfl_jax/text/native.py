"""What native libraries do with other people's files: panics as errors, their words kept back."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from lfl_jax.errors import UserError

PANIC = "PanicException"  # of pyo3, which has no module to import it from


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Inside, whatever a native library fails with is a UserError that begins with `what`.

    The tokenizers library raises bare Exception for most malformed files, and for some a panic of
    Rust's, which is no Exception and has written lines to stderr before.
    """
    try:
        with _stderr_kept_back():
            yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | UserError):
            raise
        raise UserError(f"{what}: {_short(error)}") from None


@contextlib.contextmanager
def refusing_panics() -> Iterator[None]:
    """Inside, a panic of Rust's is a UserError: it is of the file, and not of this program."""
    try:
        yield
    # A panic is no Exception.
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        raise UserError(f"the tokenizer cannot process a text: {_short(error)}") from None


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."


@contextlib.contextmanager
def _stderr_kept_back() -> Iterator[None]:
    """Inside, what native code writes to stderr waits; it is dropped where the block raises.

    Rust's panics are written by the library itself, to the descriptor. Lines of other threads come
    late, and are lost only with those of an error.
    """
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, ValueError, AttributeError):  # there is no stderr
        yield
        return
    with tempfile.TemporaryFile() as delayed:
        os.dup2(delayed.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        # Nothing was wrong: what was written is for the person.
        delayed.seek(0)
        os.write(2, delayed.read())
