"""Isolation by the kernel: no files, no network, no other processes, limits.

Two levels. Namespaces give a process tree, a network and a file system of one's own. Where the
kernel refuses them, Landlock guards the files and `seccomp` allows fewer system calls. Both set the
same resource limits. Everything goes through the C library by ctypes, so that nothing but Python is
needed; numbers are those of the kernel's headers (named in comments). Linux 6.2 or newer; tried on
x86_64, written for aarch64, too.
"""

import ctypes
import os
import resource
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
INSIDE = 1000  # the user and group inside of a user namespace
NOBODY = 65534  # the user and group that root becomes

# mount(2): MS_RDONLY and so on
RDONLY, NOSUID, NODEV, BIND, REC, PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
# clone(2): CLONE_NEWUSER and so on
NEW_USER, NEW_PIDS, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
NEW_MOUNTS, NEW_IPC, NEW_HOST_NAME = 0x00020000, 0x08000000, 0x04000000
NAMESPACES = NEW_USER | NEW_PIDS | NEW_NETWORK | NEW_MOUNTS | NEW_IPC | NEW_HOST_NAME
# prctl(2): PR_SET_...
PDEATHSIG, DUMPABLE, NO_NEW_PRIVS = 1, 4, 38

# Where the new root is put together: any folder that exists everywhere and holds nothing that
# Python needs. WORK is the writable folder inside of it.
ROOT, WORK = "/proc", "/empty"

# System calls that have the same number on every architecture.
MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE, DETACH = -100, 0x8000, 2
LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446
# Rights of Landlock's third version, all 15 of which are forbidden unless given.
WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, EVERY_RIGHT = 2, 4, 8, 1 << 14, (1 << 15) - 1
LANDLOCK_VERSION, LANDLOCK_BENEATH = 1, 1  # flag that asks for the version; rule about a folder

NOT_IMPLEMENTED = 38  # ENOSYS


def libc(name: str, *args: object) -> int:
    """Call a function of the C library; OSError with its name when it fails."""
    args = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args]
    result = LIBC[name](*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


# Namespaces.


def enter_namespaces(work_bytes: int) -> None:
    """Become an unprivileged user in new namespaces, with a private root; OSError where refused.

    The caller itself stays in its process namespace: its next child is the first of the new one.
    """
    if os.geteuid():
        _as_user(work_bytes)
    else:
        _as_root(work_bytes)
    os.setresgid(INSIDE, INSIDE, INSIDE)
    os.setresuid(INSIDE, INSIDE, INSIDE)
    os.chdir(WORK)


def _as_user(work_bytes: int) -> None:
    user, group = os.geteuid(), os.getegid()
    libc("unshare", NAMESPACES)
    _write_file("/proc/self/setgroups", "deny")  # the kernel wants that before the group map
    _write_file("/proc/self/uid_map", f"{INSIDE} {user} 1")
    _write_file("/proc/self/gid_map", f"{INSIDE} {group} 1")
    _enter_private_root(work_bytes, INSIDE)


def _as_root(work_bytes: int) -> None:
    """Root becomes nobody: a process outside of the namespace has to write the map of ids."""
    ready, unshared = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(unshared)
        _map_nobody(os.getppid(), ready)
    os.setgroups([])
    # The mounts come first: the Python that root runs may be where nobody else may look.
    libc("unshare", NEW_MOUNTS)
    _enter_private_root(work_bytes, NOBODY)
    libc("unshare", NAMESPACES)
    os.write(unshared, b"1")
    if os.waitpid(helper, 0)[1]:
        raise OSError(1, "uid_map: root may not become nobody")
    os.close(ready)
    os.close(unshared)


def _map_nobody(pid: int, ready: int) -> None:
    """Make INSIDE of that process's user namespace nobody, once there is one; does not return."""
    status = 1
    try:
        if os.read(ready, 1):  # nothing where the process ended before
            _write_file(f"/proc/{pid}/gid_map", f"{INSIDE} {NOBODY} 1")
            _write_file(f"/proc/{pid}/uid_map", f"{INSIDE} {NOBODY} 1")
            status = 0
    finally:
        os._exit(status)


def _write_file(path: str, text: str) -> None:
    # in one call, as these files of the kernel's demand
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _enter_private_root(work_bytes: int, owner: int) -> None:
    """Replace the root by Python's libraries, read-only, /dev/null, and an empty folder in memory.

    That folder is the only writable place. There is no /proc, no /tmp, no /etc and no program.
    """
    root = ROOT.encode()
    libc("mount", None, b"/", None, REC | PRIVATE, None)  # nothing propagates to the outside
    skeleton = b"mode=755,size=1m,nr_inodes=4096"
    libc("mount", b"tmpfs", root, b"tmpfs", NOSUID | NODEV, skeleton)

    for path in library_paths():
        os.makedirs(ROOT + path, exist_ok=True)
        libc("mount", path.encode(), (ROOT + path).encode(), None, BIND | REC, None)
        _make_read_only(ROOT + path, recursive=True)

    os.mkdir(ROOT + "/dev")
    os.close(os.open(ROOT + "/dev/null", os.O_CREAT | os.O_WRONLY, 0o600))
    libc("mount", b"/dev/null", root + b"/dev/null", None, BIND, None)

    os.mkdir(ROOT + WORK)
    options = f"mode=700,uid={owner},gid={owner},size={work_bytes},nr_inodes=1024".encode()
    libc("mount", b"tmpfs", root + WORK.encode(), b"tmpfs", NOSUID | NODEV, options)

    _make_read_only(ROOT, recursive=False)
    os.chdir(ROOT)
    libc("pivot_root", b".", b".")
    libc("umount2", b".", DETACH)  # the old root, on which pivot_root left the new one


def library_paths() -> list[str]:
    """The folders that a running Python loads modules and shared libraries from, outermost only."""
    python = [os.path.join(sys.base_prefix, "lib"), *sys.path]
    candidates = [*python, "/usr/lib", "/usr/lib64", "/lib", "/lib64"]
    outermost: list[str] = []
    for path in sorted({os.path.abspath(path) for path in candidates if os.path.isdir(path)}):
        if not any(path.startswith(parent + "/") for parent in outermost):
            outermost.append(path)
    return outermost


def _make_read_only(path: str, recursive: bool) -> None:
    """Make a mount read-only, without set-user-id programs and devices (Linux 5.12)."""
    attributes = struct.pack("<4Q", RDONLY | NOSUID | NODEV, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    directory = ctypes.c_int(AT_FDCWD)
    libc("syscall", MOUNT_SETATTR, directory, path.encode(), flags, attributes, len(attributes))


# Without namespaces.


def forbid_files(work: str) -> None:
    """Landlock (Linux 6.2): only Python's libraries can be read, and only `work` written."""
    if libc("syscall", LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION) < 3:
        raise OSError(NOT_IMPLEMENTED, "landlock: too old to keep files from being truncated")
    rules = [(path, READ_FILE | READ_DIR) for path in library_paths()]
    rules += [(work, EVERY_RIGHT), ("/dev/null", WRITE_FILE | READ_FILE | TRUNCATE)]

    libc("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)
    ruleset = libc("syscall", LANDLOCK_CREATE, struct.pack("<Q", EVERY_RIGHT), 8, 0)
    for path, allowed in rules:
        fd = os.open(path, os.O_PATH)
        rule = struct.pack("<Qi", allowed, fd)
        libc("syscall", LANDLOCK_ADD_RULE, ruleset, LANDLOCK_BENEATH, rule, 0)
        os.close(fd)
    libc("syscall", LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


# At both levels.


def drop_capabilities() -> None:
    """Give up what a root inside of the namespaces could do."""
    version, this_process = 0x20080522, 0
    libc("capset", struct.pack("<Ii", version, this_process), bytes(24))


def limit_resources(limits: dict[str, int]) -> None:
    """The limits of one process, which it cannot raise; its children inherit them."""
    sizes = {
        "AS": limits["memory_bytes"],
        "FSIZE": limits["file_bytes"],
        "NOFILE": limits["open_files"],
        "NPROC": limits["processes"],
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "SIGPENDING": 64,
    }
    for name, value in sizes.items():
        number = getattr(resource, "RLIMIT_" + name, None)
        if number is not None:
            lower_limit(number, value, value)
    # The soft limit sends SIGXCPU, which a program may ignore; the hard one kills.
    lower_limit(resource.RLIMIT_CPU, limits["cpu_seconds"], limits["cpu_seconds"] + 1)


def lower_limit(number: int, soft: int, hard: int) -> None:
    """Set a limit, unless the present one is lower."""
    present = resource.getrlimit(number)[1]
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(number, (soft, hard))
