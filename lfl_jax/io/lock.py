"""One process at a time in a directory: a lock that names its holder and does not outlive it."""

import contextlib
import dataclasses
import getpass
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from lfl_jax.errors import UserError

LOCK_FILE = "run.lock"
HEARTBEAT_SECONDS = 10.0
# A holder elsewhere counts as dead after this silence: many heartbeats, and more than the minute
# for which an NFS client may show old file times.
STALE_SECONDS = 180.0
TRIES = 20


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    machine: where `pid` means something, one boot and one process namespace of a host.
    process_started: the kernel's start time of the process, as pids are used again. token:
    different for each lock.
    """

    host: str
    pid: int
    user: str
    started: str
    machine: str
    process_started: str
    token: str

    def __str__(self) -> str:
        return f"{self.user} on {self.host}, process {self.pid}, since {self.started}"


# What a lock says whose text cannot be read: half-written by a crash, or being written right now.
UNREADABLE = Holder(
    "this directory", 0, "an unknown process", "an unknown time", "", "", "unreadable"
)


class DirectoryLock:
    """Inside, this process holds `directory/run.lock`; UserError names who else holds it.

    flock and fcntl locks are not enough: over NFS they need a lock service that many clusters do
    not run, and other shared file systems ignore them. What all of them do atomically is to make a
    name: link() to a file that is written already, or open with O_EXCL where there are no links.
    Whether a holder is alive, the process table says on its own machine, and elsewhere the file's
    time, which the holder renews every few seconds. Of the processes of one run, process 0 holds it
    for all.
    """

    def __init__(self, directory: str | Path, *, process_index: int = 0) -> None:
        self._path, self._is_holder = Path(directory).absolute() / LOCK_FILE, process_index == 0
        self._holder = _this_process()
        self._released = threading.Event()
        self._lost: str | None = None

    def __enter__(self) -> "DirectoryLock":
        if not self._is_holder:
            return self
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _acquire(self._path, self._holder)
        except OSError as error:
            reason = f"cannot write to {self._path.parent}: {error.strerror}"
            raise UserError(f"{reason}; make it writable or pass another directory") from error
        threading.Thread(target=self._renew, name="run lock", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        # What fails without the directory fails in as many ways as there are writers.
        if isinstance(error, Exception):
            self._require_directory(error)
        with contextlib.suppress(OSError):
            if _read(self._path) == self._holder:
                self._path.unlink()

    def check(self) -> None:
        """UserError where the directory is gone, or another process's after a long suspension."""
        self._require_directory()
        if self._lost is not None:
            raise UserError(
                f"{self._path.parent} was taken over by another process ({self._lost}); this one"
                " stops"
            )

    def _require_directory(self, cause: Exception | None = None) -> None:
        if self._is_holder and not self._path.exists():
            raise UserError(
                f"{self._path.parent} was deleted while this process worked in it; it stops"
            ) from cause

    def _renew(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            # A file server may be away for a while: the next heartbeat tries again.
            with contextlib.suppress(OSError):
                holder = _read(self._path)
                if holder is not None and holder != self._holder:
                    self._lost = str(holder)
                    return
                os.utime(self._path)


def _this_process() -> Holder:
    pid = os.getpid()
    return Holder(
        host=socket.gethostname(),
        pid=pid,
        user=_user(),
        started=time.strftime("%Y-%m-%d %H:%M:%S"),
        machine=_machine(),
        process_started=_process_started(pid) or "",
        token=secrets.token_hex(8),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user without a name
        return str(os.getuid())


def _machine() -> str:
    """Host, boot and process namespace: two containers do not see each other's processes."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _process_started(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat, in ticks since boot.

    "" where there is no /proc, None without such a process.
    """
    if not Path("/proc/self/stat").exists():
        return "" if _answers(pid) else None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name in parentheses may hold anything
    return None if state in ("Z", "X") else fields[18]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read(path: Path) -> Holder | None:
    """Who holds the lock; None without a lock."""
    try:
        holder = Holder(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return UNREADABLE
    # The token becomes part of a file's name.
    return holder if isinstance(holder.token, str) and holder.token.isalnum() else UNREADABLE


def _acquire(path: Path, holder: Holder) -> None:
    """Make the lock.

    One that a dead process left is replaced, by whoever holds the lock on replacing it. That second
    lock's name carries the token of the dead holder: who was slow to replace it finds another
    token.
    """
    for tried in range(TRIES):
        if _make(path, holder):
            return
        other = _read(path)
        if other is None or (other is UNREADABLE and tried < TRIES // 2):
            time.sleep(0.05)  # released, or being written
            continue
        _refuse_while_alive(path, other, holder)
        # Its token names the lock on replacing it: of two processes that see the same dead holder,
        # one replaces it, and the other then finds a living one.
        replacing = path.with_name(f"{path.name}.{other.token}")
        _acquire(replacing, holder)
        try:
            if _read(path) == other:
                _write_beside(path, holder).replace(path)
                return
        finally:
            replacing.unlink(missing_ok=True)
    raise UserError(
        f"{path.parent}: other processes start here again and again; pass another directory"
    )


def _refuse_while_alive(path: Path, other: Holder, holder: Holder) -> None:
    if other.machine == holder.machine:
        # A process id is used again; together with its start time it is unique.
        is_alive, until = _process_started(other.pid) == other.process_started, ""
    else:
        remaining = STALE_SECONDS - _age(path, holder)
        is_alive = remaining > 0
        until = f"; should it be dead, this works in {max(remaining, 1):.0f} s"
    if is_alive:
        raise UserError(
            f"{path.parent} is in use by {other}: wait for it, stop it, or pass another"
            f" directory{until}"
        )


def _write_beside(path: Path, holder: Holder) -> Path:
    partial = path.with_name(f".{path.name}.{holder.token}.tmp")
    try:
        partial.write_text(json.dumps(dataclasses.asdict(holder)) + "\n")
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return partial


def _make(path: Path, holder: Holder) -> bool:
    """Whether the name was free and is now this holder's, complete from the first moment."""
    partial = _write_beside(path, holder)
    try:
        os.link(partial, path)
    except FileExistsError:
        # NFS may lose the answer to a link that was made: two names then show that it was.
        return partial.stat().st_nlink == 2
    except OSError:  # no links here (FAT, some object stores)
        return _make_exclusively(path, partial.read_text())
    finally:
        partial.unlink(missing_ok=True)
    return True


def _make_exclusively(path: Path, text: str) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def _age(path: Path, holder: Holder) -> float:
    """Seconds since the lock was renewed: both times are of files, by the server's clock."""
    now = _write_beside(path, holder)
    try:
        with path.open() as file:  # opening makes an NFS client ask the server
            return now.stat().st_mtime - os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        now.unlink(missing_ok=True)
