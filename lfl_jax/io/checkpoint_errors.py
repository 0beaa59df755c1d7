"""What goes wrong with checkpoints, in words: no room, damage, and noise of the libraries."""

import contextlib
import dataclasses
import errno
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, SimpleNamespace, TracebackType

from lfl_jax.io.checkpoint_checks import Damaged

OVERHEAD = 1.05  # a checkpoint's files over its arrays
# Warnings of orbax that are no news: after a second's wait for a save, even the last of a run, and
# after a save that failed.
NOISE = ("Waiting for previous save", "Skipping merge of OCDBT checkpoints")


def require_room(directory: Path, size: int) -> None:
    """OSError when a checkpoint of `size` bytes cannot fit.

    Failing at this point is quieter than in orbax's threads, and leaves no partial checkpoint.
    Quotas are not in the file system's figures, and some systems have no figures at all.
    """
    disk = os.statvfs(directory)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < size * OVERHEAD:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def naming_damage(directory: Path) -> Iterator[None]:
    """Inside, metadata of a step that orbax cannot make sense of are Damaged."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"a checkpoint in {directory} is damaged: {error}") from error


def report_unless_loop_closed(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """sys.excepthook, silent about the threads that still write after a failed save."""
    if not (kind is RuntimeError and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, trace)


def is_news(record: logging.LogRecord) -> bool:
    """False for lines of orbax's that would only tear the progress bar.

    A save that fails is logged by each of its threads with its traceback, and then raised anyway.
    """
    raised = record.exc_info is not None and "orbax" in record.pathname
    return not raised and not any(words in record.getMessage() for words in NOISE)


def ask_tensorstore_nothing() -> None:
    """Keep orbax from two questions to tensorstore, whose answers stay in memory for good.

    tensorstore 0.1.86 frees no dict that it makes. How many bytes it wrote orbax only logs: half a
    megabyte a save. How the spec of a folder is written in full it asks for every array of every
    save, and gets the spec that it gave: 0.1 MB a run.
    """
    from orbax.checkpoint._src.serialization import tensorstore_utils

    # A later version may do without, or in another way.
    if hasattr(tensorstore_utils, "get_tensorstore_raw_bytes"):
        tensorstore_utils.get_tensorstore_raw_bytes = lambda *direction: 0
    build = getattr(tensorstore_utils, "_build_ocdbt_kvstore_tspec", None)
    if build is not None:
        as_given = SimpleNamespace(KvStore=SimpleNamespace(Spec=_Spec))
        own = FunctionType(build.__code__, vars(tensorstore_utils) | {"ts": as_given})
        own.__defaults__, own.__kwdefaults__ = build.__defaults__, build.__kwdefaults__
        tensorstore_utils._build_ocdbt_kvstore_tspec = own


@dataclasses.dataclass(frozen=True)
class _Spec:
    """In place of tensorstore's class, for the one question that orbax asks it."""

    given: dict[str, object]

    def to_json(self) -> dict[str, object]:
        return dict(self.given)
