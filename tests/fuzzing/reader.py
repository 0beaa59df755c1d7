"""What a reader is to the fuzzer."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any


@dataclasses.dataclass(frozen=True)
class Reader:
    """Files of a kind, and how they are read.

    write(rng, folder): files with mistakes; whole ones where rng is None. read(folder): all that a
    user's command would read of them. wrong(value, folder): what was read silently though it cannot
    be right, in words; "" where nothing is. share: of the cases, relative to other readers.
    """

    write: Callable[[Random | None, Path], None]
    read: Callable[[Path], Any]
    wrong: Callable[[Any, Path], str] = lambda value, folder: ""
    share: float = 1.0


def nothing_wrong(value: Any, folder: Path) -> str:
    """Of readers whose values nothing independent is known about."""
    return ""
