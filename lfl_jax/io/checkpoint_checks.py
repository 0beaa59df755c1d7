"""Whether a checkpoint is still what was written, before anything reads its arrays.

Beside the trees of a step stands a list of its files with sizes and hashes, written once the step
is complete. Orbax and tensorstore notice little of a damaged file: changed arrays load silently,
and what they do notice ends in errors about something else.

Files above LARGE have their size in the list only: reading back what many hosts wrote would take
one of them minutes. The bits of their arrays are compared when they are loaded.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lfl_jax.core import files
from lfl_jax.errors import UserError

FILE = "checksums.json"
METADATA = "_CHECKPOINT_METADATA"  # orbax's own
LARGE = 64 << 20  # bytes


class Damaged(UserError):
    """A checkpoint whose files are not those that were written."""


def write(folder: Path) -> None:
    """The list of a complete step; of one that others removed meanwhile, nothing."""
    if folder.is_dir():
        listed = {str(path.relative_to(folder)): _described(path) for path in _files(folder)}
        # At once: half a list would be a damaged checkpoint.
        files.write_text(folder / FILE, json.dumps(listed))


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Inside, files of a complete step may change; whatever ends that, the step is not damaged."""
    (folder / FILE).unlink(missing_ok=True)
    yield
    write(folder)


def verify(folder: Path, trees: Iterable[str]) -> None:
    """Damaged where the step's own files, or those of these trees, are not what the list says.

    A tree that is not there at all is no damage: older checkpoints lose some. Without a list
    nothing can be said: a process may have been killed between the two.
    """
    listed, trees = _listed(folder), {tree for tree in trees if (folder / tree).is_dir()}
    for name, expected in listed.items():
        # Of the step itself, or of the tree whose folder it is in.
        tree = name.partition("/")[0] if "/" in name else None
        if tree is not None and tree not in trees:
            continue
        path = folder / name
        if not path.is_file():
            raise Damaged(f"checkpoint {folder} is damaged: {name} is missing")
        if _described(path) != expected:
            raise Damaged(f"checkpoint {folder} is damaged: {name} is not what was written")


def set_aside(directory: Path) -> list[str]:
    """Move damaged steps out of a directory of checkpoints; what was moved, in a line each.

    A run resumes from the last of the others. Damaged, and nothing is moved, when there are none.
    """
    steps = [path for path in directory.glob("*") if path.name.isdecimal()]
    damages = {step: damage for step in steps if (damage := _damage(step)) is not None}
    if damages and len(damages) == len(steps):
        raise Damaged(
            f"{next(iter(damages.values()))}, and there is no other; to train from the start, use"
            " another --workdir"
        )
    lines = []
    for step, damage in damages.items():
        # The time, since a step that was trained again may be damaged again.
        aside = directory.with_name(f"{directory.name}.damaged") / f"{step.name}.{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        step.rename(aside)
        lines.append(f"{damage}; it is at {aside} now, and an older one is used")
    return lines


def _damage(step: Path) -> Damaged | None:
    try:
        verify(step, [path.name for path in step.iterdir() if path.is_dir()])
    except Damaged as damage:
        return damage
    # Without a list: a process was killed between the two, or all of the step's files are gone.
    has_metadata = (step / METADATA).is_file()
    return None if has_metadata else Damaged(f"checkpoint {step} is damaged: it has no metadata")


def _listed(folder: Path) -> dict[str, list]:
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        listed = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, dict):
        raise Damaged(f"checkpoint {folder} is damaged: {FILE} cannot be read")
    return listed


def _files(folder: Path) -> list[Path]:
    every = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    # What a process left that was killed while it wrote a list.
    return [path for path in every if path.suffix != ".tmp"]


def _described(path: Path) -> list[int | str | None]:
    """[size in bytes, its hash or None]."""
    size = path.stat().st_size
    is_hashed = size <= LARGE
    return [size, hashlib.sha256(path.read_bytes()).hexdigest() if is_hashed else None]
