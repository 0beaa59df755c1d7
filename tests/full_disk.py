"""Starts on file systems of many small sizes: a full disk is a line, and what was written stays.

    unshare -m python tests/full_disk.py FOLDER [--starts=45]     (as root; about 8 minutes of a core)

Each start has a file system of its own, from one that holds hardly a config to one that is nearly
large enough. It has to end within its time, by itself, with exit code 4 and one line that names the
file or the step. With room made the same command then ends as a run that nobody disturbed, bit for
bit.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import kills

from lfl_jax.errors import MAKE_ROOM, NO_ROOM

SUBJECT = kills.SUBJECTS["full"]
SECONDS = 600  # on a busy machine; alone a start takes 8


def mount(place: Path, kib: int, *options: str) -> None:
    """A file system in memory of this size."""
    place.mkdir(parents=True, exist_ok=True)
    how = ",".join((f"size={kib}k", *options))
    subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(place)], check=True)


def size_of(folder: Path) -> int:
    """Of all files, in KiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024 + 1


def wrong_with(code: int | None, said: list[str]) -> list[str]:
    """What a start without room should not have done."""
    errors = [line for line in said if line.startswith("error: ")]
    names_it = any("/run" in line and MAKE_ROOM in line for line in errors)
    return [
        *([f"exit code {code}"] if code != NO_ROOM else []),
        *([f"{len(errors)} errors"] if len(errors) != 1 else []),
        *(["names no file or step"] if not names_it else []),
        *(["a traceback"] if any("Traceback" in line for line in said) else []),
        *([f"{len(said)} lines"] if len(said) > 30 else []),
    ]


def start_without_room(place: Path, kib: int, undisturbed: dict[str, object]) -> list[str]:
    """What is wrong with one start, and with the next one, which has room."""
    # The log is outside of the file system.
    inside = place / "disk"
    mount(inside, kib)
    process = SUBJECT.start(inside / "run", place / "log")
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return ["hangs"]
    said = (place / "log").read_text(errors="replace").splitlines()
    wrong = wrong_with(process.exitcode, said)
    mount(inside, 1 << 17, "remount")
    process = SUBJECT.start(inside / "run", place / "log")
    process.join()
    wrong += [f"then exit code {process.exitcode}"] if process.exitcode else []
    wrong += kills.apart(kills.differences, inside / "run", undisturbed)
    subprocess.run(["umount", str(inside)], check=True)
    return [*wrong, *said[-1:]] if wrong else []


def main(place: Path, starts: int) -> bool:
    """Whether all were as they should be."""
    whole, began = place / "whole" / "run", time.monotonic()
    assert not kills.finish(SUBJECT, whole)
    undisturbed, most = kills.apart(kills.state_of, whole), size_of(whole)
    faults = 0
    for number in range(starts):
        # From 12 KiB to nine tenths; there are blocks of 4 KiB.
        kib = round(12 * (0.9 * most / 12) ** (number / max(starts - 1, 1)))
        wrong = start_without_room(place / str(number), kib, undisturbed)
        faults += bool(wrong)
        print(f"{kib} KiB of {most}: {wrong or 'a line, and whole afterwards'}", flush=True)
    print(f"{starts} starts, {faults} with faults, {time.monotonic() - began:.0f} s")
    return not faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--starts", type=int, default=45)
    options = parser.parse_args()
    sys.exit(0 if main(options.folder, options.starts) else 1)
