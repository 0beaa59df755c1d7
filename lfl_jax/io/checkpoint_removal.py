"""Parts of checkpoints that nobody needs any more are removed, whole or not at all."""

import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path


def remove(directory: Path, folders: Iterable[Path]) -> None:
    """Remove folders of a directory of checkpoints, or the directory itself.

    Each leaves by one rename and is removed elsewhere: whatever ends the process in between, each
    is complete or absent. What such an end leaves behind is removed by the next call.
    """
    removed = directory.with_name(f".{directory.name}.removed")
    for folder in folders:
        if folder.is_dir():
            removed.mkdir(exist_ok=True)
            # The time, since a folder of this name may be there from a start that was killed.
            folder.rename(removed / f"{folder.parent.name}.{folder.name}.{time.time_ns()}")
    if removed.exists():
        shutil.rmtree(removed, ignore_errors=True)


def remove_trees(directory: Path, names: Sequence[str], steps: Iterable[int] | None = None) -> None:
    """Remove these trees from checkpoints; None: from those of every step."""
    every = (path for path in directory.glob("*") if path.name.isdecimal())
    chosen = every if steps is None else (directory / str(step) for step in steps)
    remove(directory, [step / name for step in chosen for name in names])
