"""Runs hostile programs as one of several users, and looks from outside at what became of them.

Run by path, with the package and tests/ on PYTHONPATH. Standard input is JSON: level ("namespaces"
or "seccomp"), user (a name of USERS), names (of PROGRAMS). Standard output is JSON: verdicts (name ->
passed, reason, output, seconds), left (processes), files (that stay), touched (whether what is
outside changed, or a server was reached), refused (why nothing was run, or null).
"""

import ctypes
import json
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from evals.hostile.programs import PROGRAMS

from lfl_jax.evals import sandbox
from lfl_jax.evals.sandbox import Limits, Program

LOW = Limits(cpu_seconds=1, wall_seconds=10, memory_mb=160, file_mb=4, processes=6, output_kb=4)
# for what only the clock stops; the others may wait for a busy machine
SHORT = replace(LOW, wall_seconds=2)
TESTS = "word = 'LFLTOKEN'\nassert f(1) == 2\nassert f(2) == 3"
NOBODY = 65534
SUBREAPER, DROP_FROM_BOUNDING_SET, SYS_ADMIN = 36, 24, 21  # PR_..., CAP_SYS_ADMIN


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def give_up_administration() -> None:
    """What a root in a plain container is: what it starts never has CAP_SYS_ADMIN."""
    if ctypes.CDLL(None).prctl(DROP_FROM_BOUNDING_SET, SYS_ADMIN, 0, 0, 0):
        raise OSError("CAP_SYS_ADMIN cannot be dropped")


USERS: dict[str, Callable[[], None]] = {
    "as it is": lambda: None,
    "nobody": become_nobody,
    "root without CAP_SYS_ADMIN": give_up_administration,
}


def children() -> set[int]:
    """Processes whose parent is this one: as it is their subreaper, all that outlived theirs."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            # A zombie has ended, and waits for this process alone to notice.
            if int(parent) == os.getpid() and state != "Z":
                found.add(int(entry.name))
    return found


def outside(canary: Path) -> dict[str, tuple[int, ...]]:
    """All that can be seen of the files around the canary."""
    states = {path.name: path.lstat() for path in (canary.parent, *canary.parent.iterdir())}
    return {name: (s.st_mode, s.st_uid, s.st_size, s.st_ctime_ns) for name, s in states.items()}


def run(level: str, names: list[str], canary: Path, port: int) -> dict[str, sandbox.Verdict]:
    """The verdict of each program."""
    sandbox.level = lambda allow_weak=False: level
    values = {
        "canary": str(canary),
        "port": port,
        "token": "''.join(['LFL', 'TOKEN'])",
        "kill": 9 if level == "namespaces" else 0,
    }
    endless = [name for name in names if "timeout" in PROGRAMS[name][1]]
    others = [name for name in names if name not in endless]
    verdicts = {}
    for some, limits in ((endless, SHORT), (others, LOW)):
        programs = [Program(PROGRAMS[name][0].format(**values), TESTS, ("f",)) for name in some]
        done = sandbox.check_many(programs, limits, workers=2)
        verdicts |= {some[i]: verdict for i, verdict in done}
    return verdicts


def attack(level: str, user: str, names: list[str]) -> dict:
    """What standard output gets."""
    os.environ["LFL_SECRET"] = "CANARY"
    with tempfile.TemporaryDirectory() as base, socket.create_server(("127.0.0.1", 0)) as server:
        canary, folders = Path(base) / "outside" / "canary", Path(base) / "folders"
        for folder in (canary.parent, folders):
            folder.mkdir()
        canary.write_text("CANARY")
        # Whoever attacks owns it: rights of files keep nobody out.
        if user == "nobody":
            for path in (Path(base), canary.parent, folders, canary):
                os.chown(path, NOBODY, NOBODY)
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return {}
        try:
            USERS[user]()
            print(json.dumps(watched(level, names, canary, folders, server)), flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)


def watched(
    level: str, names: list[str], canary: Path, folders: Path, server: socket.socket
) -> dict:
    refused = sandbox._refusal(level)
    if refused is not None:
        return {"refused": refused, "left": sorted(children())}
    tempfile.tempdir = str(folders)
    before = outside(canary)
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    verdicts = run(level, names, canary, server.getsockname()[1])
    left = children()
    server.settimeout(0.1)
    try:
        server.accept()[0].close()
        connected = True
    except TimeoutError:
        connected = False
    return {
        "refused": None,
        "verdicts": {name: asdict(verdict) for name, verdict in verdicts.items()},
        "left": sorted(left),
        "files": [str(path) for path in (*folders.iterdir(), *Path("/tmp").glob("lfl-hostile*"))],
        "touched": connected or outside(canary) != before or canary.read_text() != "CANARY",
    }


if __name__ == "__main__":
    attack(**json.load(sys.stdin))
