"""The writable folder of a program without namespaces: how much it holds, and its removal.

With namespaces that folder is a file system in memory with a size. Without, it is a folder like
others, and a limit of each file says nothing about many: it is watched. Standard library only, as
`child` runs without anything else.
"""

import os
import stat
from itertools import islice

MOST_FILES = 1024  # files and folders, as many as the file system in memory takes
BLOCK = 512  # bytes that st_blocks counts in
EXITING = 4  # the kernel's PF_EXITING, of the flags in /proc/PID/stat


def is_full(folder: str, pid: int, most_bytes: int) -> bool:
    """Whether a process has written more than it may; also where that cannot be seen.

    What is removed and still open, or still mapped, counts too: it occupies the disk.
    """
    try:
        paths = _paths(folder)
    except OSError:  # it may not be read, or is nested deeper than a path can name
        return True
    try:
        opened = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
        with open(f"/proc/{pid}/maps", errors="replace") as maps:
            mapped = any(folder in line and line.endswith(" (deleted)\n") for line in maps)
    except OSError:
        return not _is_ending(pid)
    # The size of a file without a name is unknown where it is only mapped: no program needs that.
    too_many = len(paths) > MOST_FILES
    return mapped or too_many or _bytes(paths) + _bytes(opened, unnamed=True) > most_bytes


def _is_ending(pid: int) -> bool:
    """Whether a process has begun to exit, so that its files can no longer be asked for."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return True
    return bool(int(fields[6]) & EXITING)


def _paths(folder: str) -> list[str]:
    """The files and folders below; not all, where they are too many."""
    paths: list[str] = []
    folders = [folder]
    while folders and len(paths) <= MOST_FILES:
        try:
            entries = os.scandir(folders.pop())
        except FileNotFoundError:  # removed meanwhile
            continue
        with entries:
            for entry in islice(entries, MOST_FILES + 1):
                paths.append(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return paths


def _bytes(paths: list[str], unnamed: bool = False) -> int:
    """How much these files occupy, or will once their holes are filled.

    unnamed: these are descriptors, and only files that no folder names any more count.
    """
    total = 0
    for path in paths:
        try:
            status = os.stat(path, follow_symlinks=unnamed)
        except OSError:
            continue
        if not unnamed or (stat.S_ISREG(status.st_mode) and status.st_nlink == 0):
            total += max(status.st_size, status.st_blocks * BLOCK)
    return total


def remove(folder: str) -> None:
    """Remove what a program left behind, once it has ended; nothing where there is none.

    By descriptors, one folder open at a time: paths may be longer than the kernel takes, and nested
    deeper than Python recurses.
    """
    try:
        os.rmdir(folder)  # most programs leave nothing
    except FileNotFoundError:
        return
    except OSError:
        _empty(folder)
        os.rmdir(folder)


def _empty(folder: str) -> None:
    inside: list[str] = []  # the folders from there to the present one
    present = _opened(folder, None)
    while True:
        name = _remove_entries(present)
        if name is not None:
            present = _opened(name, present)
            inside.append(name)
        elif inside:
            present = _opened("..", present)
            os.rmdir(inside.pop(), dir_fd=present)
        else:
            break
    os.close(present)


def _opened(name: str, present: int | None) -> int:
    """The descriptor of a folder in the present one, which is closed."""
    if name != "..":
        os.chmod(name, 0o700, dir_fd=present)  # it may have been made without rights
    opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=present)
    if present is not None:
        os.close(present)
    return opened


def _remove_entries(present: int) -> str | None:
    """Remove what is in a folder, up to a folder that is not empty: its name, or None."""
    with os.scandir(present) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=present)
                continue
            try:
                os.rmdir(entry.name, dir_fd=present)
            except OSError:
                return entry.name
    return None
