"""The cache folder: one folder per item, complete and stamped, or absent."""

import contextlib
import fcntl
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lfl_jax import notices
from lfl_jax.assets import hub_names
from lfl_jax.assets.manifest import Item, Wheel, item
from lfl_jax.config import locations
from lfl_jax.core import files
from lfl_jax.core.files import MALFORMED, sha256
from lfl_jax.errors import UserError

STAMP = "item.json"
PARTIAL = ".partial-"  # folders in the making; nothing reads them


def root() -> Path:
    """`$LFL_CACHE`, or `~/.cache/lfl_jax`; UserError without a home directory."""
    folder = os.environ.get("LFL_CACHE") or "~/.cache/lfl_jax"
    try:
        return Path(locations.absolute(folder, Path.cwd()))
    except UserError:
        raise UserError(
            f"no home directory for the cache {folder}: set LFL_CACHE to a folder you can write"
        ) from None


def writable(name: str) -> Path | None:
    """A folder of the cache for what can be made again.

    None, with a single warning, where nothing can be written.
    """
    try:
        folder = root() / name
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions say little on network file systems: only writing tells.
        tempfile.TemporaryFile(dir=folder).close()
    except UserError as error:
        notices.warn(f"{error}; going on without it")
    except OSError as error:
        notices.warn(
            f"cannot write to the cache {root()} ({error.strerror}): set LFL_CACHE; going on"
            " without it"
        )
    else:
        return folder
    return None


def scratch(name: str) -> Path:
    """As `writable`, with a folder that lasts as long as this process in its place."""
    return writable(name) or Path(_for_this_process().name)


@functools.cache
def _for_this_process() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="lfl_jax-")


def is_cached(name: str) -> bool:
    """Whether the item is cached, complete, and from the origin that the manifest names today."""
    return stamp(item(name)) is not None


def path(name: str, file: str | None = None) -> Path:
    """The item's folder, or one file of it; UserError with the fetch command if not cached."""
    files = provenance(name)["files"]
    if file is not None and file not in files:
        raise UserError(f"{name} has no file {file!r}; it has {', '.join(files)}")
    return root() / item(name).folder / (file or "")


def licence(name: str) -> str:
    """The licence of the item's content, as its authors or its card on the hub name it."""
    return provenance(name)["licence"] if hub_names.is_hub(name) else item(name).licence


def provenance(name: str) -> dict[str, Any]:
    """What a result records about a fetched item: name, licence, origin and file hashes."""
    entry = item(name)
    stamped = stamp(entry)
    if stamped is None:
        is_there = (root() / entry.folder / STAMP).exists()
        problem = "in the cache is not what was fetched" if is_there else "is not fetched"
        raise UserError(f"{name} {problem}: run `python -m lfl_jax.fetch {name}`")
    return stamped


def stamp(entry: Item) -> dict[str, Any] | None:
    """The stamp of a complete, current item.

    None if it is absent, damaged, changed after it was fetched, or of another origin.
    """
    folder = root() / entry.folder
    try:
        stamped = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        is_same = stamped.get("name") == entry.name and stamped.get("origin") == _origin(entry)
        has_all_files = set(stamped["files"]) >= {name for _, name in entry.files}
        is_complete = all(_is_unchanged(folder / name, x) for name, x in stamped["files"].items())
        if not (is_same and has_all_files and is_complete):
            return None
        _note_times(folder, stamped)
    except (OSError, *MALFORMED):
        return None
    return stamped


def _is_unchanged(file: Path, recorded: Mapping[str, Any]) -> bool:
    """Whether a file is what was verified on arrival.

    By size and time, since hashing gigabytes would slow every start; by its hash where the time is
    another one, as of a copied cache.
    """
    status = file.stat()
    if status.st_size != recorded["bytes"]:
        return False
    time = status.st_mtime_ns
    return time == recorded.get("mtime_ns") or _hash_at(file, time) == recorded["sha256"]


@functools.cache
def _hash_at(file: Path, mtime_ns: int) -> str:
    """A file's hash, once for each time of change."""
    return sha256(file)


def _note_times(folder: Path, stamped: dict[str, Any]) -> None:
    """Write the times of files whose hashes were right into the stamp, for the next start."""
    times = {name: (folder / name).stat().st_mtime_ns for name in stamped["files"]}
    if all(stamped["files"][name].get("mtime_ns") == time for name, time in times.items()):
        return
    for name, time in times.items():
        stamped["files"][name]["mtime_ns"] = time
    # A cache that cannot be written is hashed at each start.
    with contextlib.suppress(OSError):
        files.write_json(folder / STAMP, stamped)


def hashes_at(entry: Item, commit: str) -> dict[str, str]:
    """{file: SHA-256} of what the cache took of a repository at a commit; {} where it took nothing.

    Whatever became of the files since: a commit is one content for ever.
    """
    try:
        stamped = json.loads((root() / entry.folder / STAMP).read_text(encoding="utf-8"))
        is_same = stamped["commit"] == commit and stamped["origin"]["repo"] == entry.origin.repo
        return {name: x["sha256"] for name, x in stamped["files"].items()} if is_same else {}
    except (OSError, *MALFORMED):
        return {}


def install(staged: Path, entry: Item, commit: str | None = None) -> Path:
    """Stamp a folder of verified files and move it into the cache by one rename; returns its path.

    commit: of the hub's repository, where the manifest names a branch.
    """
    staged_files = sorted(file for file in staged.rglob("*") if file.is_file())
    content = {
        "name": entry.name,
        "licence": entry.licence,
        "origin": _origin(entry),
        "files": {file.relative_to(staged).as_posix(): _described(file) for file in staged_files},
    }
    content |= {"commit": commit} if commit else {}
    (staged / STAMP).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    folder = root() / entry.folder
    if folder.exists():  # damaged, or of an older manifest: stamp() refused it
        # A folder cannot be renamed onto one that has files: the old one moves aside first.
        os.replace(folder, staged.with_name(f"{staged.name}-replaced"))
    os.replace(staged, folder)
    shutil.rmtree(staged.with_name(f"{staged.name}-replaced"), ignore_errors=True)
    return folder


def _described(file: Path) -> dict[str, str | int]:
    status = file.stat()
    return {
        "sha256": sha256(file),
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }


@contextlib.contextmanager
def staging() -> Iterator[Path]:
    """A new folder on the cache's own disk, removed at the end whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=root()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def exclusive(on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Lock the cache for one fetch at a time, and clear what killed fetches left.

    on_wait: called before a wait.
    """
    root().mkdir(parents=True, exist_ok=True)
    with open(root() / ".lock", "w") as lock:
        try:  # the system lets go of the lock when the process dies
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        for abandoned in root().glob(f"{PARTIAL}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        yield


def _origin(entry: Item) -> dict[str, Any]:
    kind = "wheel" if isinstance(entry.origin, Wheel) else "hub"
    # A hub's files are pinned by what was recorded when they came; a wheel's hash names the wheel.
    left_out = ("bytes",) if kind == "wheel" else ("bytes", "sha256")
    fields = {key: value for key, value in asdict(entry.origin).items() if key not in left_out}
    return json.loads(json.dumps({"from": kind, **fields}))  # as it reads back: lists, no tuples
