"""Isolation by the kernel: no files, no network, no other processes, few system calls, limits.

Two levels. Namespaces give a process tree, a network and a file system of one's own. Where the
kernel refuses them, Landlock guards the files and seccomp forbids more system calls. Both set the
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
PDEATHSIG, DUMPABLE, NO_NEW_PRIVS, SECCOMP = 1, 4, 38, 22
SECCOMP_FILTER = 2

# Where the new root is put together: any folder that exists everywhere and holds nothing that
# Python needs. WORK is the writable folder inside of it.
ROOT, WORK = "/proc", "/empty"

# System calls that have the same number on every architecture.
MOUNT_SETATTR, CLONE3 = 442, 435
AT_FDCWD, AT_RECURSIVE, DETACH = -100, 0x8000, 2
LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446
# Rights of Landlock's third version, all 15 of which are forbidden unless given.
WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, EVERY_RIGHT = 2, 4, 8, 1 << 14, (1 << 15) - 1
LANDLOCK_VERSION, LANDLOCK_BENEATH = 1, 1  # flag that asks for the version; rule about a folder

# Per machine: its name for seccomp (AUDIT_ARCH_...), the column below that is its, its `clone` and
# its `socket`.
MACHINES = {"x86_64": (0xC000003E, 1, 56, 41), "aarch64": (0xC00000B7, 2, 220, 198)}
# AF_UNIX, AF_INET, AF_INET6: the families that a network namespace has of its own. AF_VSOCK, for
# one, reaches the machine around a virtual machine from any of them.
FAMILIES = (1, 2, 10)
# Forbidden at both levels: (name, number on x86_64, number on aarch64), -1 where there is none.
FORBIDDEN = (
    # to read or steer another process
    ("ptrace", 101, 117),
    ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271),
    ("kcmp", 312, 272),
    ("pidfd_getfd", 438, 438),
    # large parts of the kernel, often at fault, that no solution needs
    ("bpf", 321, 280),
    ("keyctl", 250, 219),
    ("add_key", 248, 217),
    ("request_key", 249, 218),
    ("perf_event_open", 298, 241),
    ("io_uring_setup", 425, 425),
    ("userfaultfd", 323, 282),
    # other namespaces and mounts
    ("unshare", 272, 97),
    ("setns", 308, 268),
    ("mount", 165, 40),
    ("umount2", 166, 39),
    ("pivot_root", 155, 41),
    ("chroot", 161, 51),
    ("open_tree", 428, 428),
    ("move_mount", 429, 429),
    ("fsopen", 430, 430),
    ("mount_setattr", 442, 442),
    # memory that no limit of a process counts
    ("shmget", 29, 194),
    ("semget", 64, 190),
    ("msgget", 68, 186),
    ("memfd_create", 319, 279),
)
# Forbidden, too, where there are no namespaces.
WITHOUT_NAMESPACES = (
    # new processes and threads, which could outlive the sandbox
    ("fork", 57, -1),
    ("vfork", 58, -1),
    ("clone", 56, 220),
    ("clone3", 435, 435),
    ("execve", 59, 221),
    ("execveat", 322, 281),
    ("setsid", 112, 157),
    ("setpgid", 109, 154),
    # signals to others
    ("kill", 62, 129),
    ("tkill", 200, 130),
    ("tgkill", 234, 131),
    ("rt_sigqueueinfo", 129, 138),
    ("rt_tgsigqueueinfo", 297, 240),
    ("pidfd_send_signal", 424, 424),
    # the network
    ("socket", 41, 198),
    ("socketpair", 53, 199),
    # the limits, priority and memory of others
    ("prlimit64", 302, 261),
    ("setpriority", 141, 140),
    ("sched_setparam", 142, 118),
    ("sched_setscheduler", 144, 119),
    ("sched_setattr", 314, 274),
    ("sched_setaffinity", 203, 122),
    ("ioprio_set", 251, 30),
    ("migrate_pages", 256, 238),
    ("move_pages", 279, 239),
    ("process_madvise", 440, 440),
    ("mq_open", 240, 180),
    # fcntl makes the owner of a descriptor receive signals
    ("fcntl", 72, 25),
    # attributes of files, which Landlock does not guard
    ("chmod", 90, -1),
    ("fchmod", 91, 52),
    ("fchmodat", 268, 53),
    ("fchmodat2", 452, 452),
    ("chown", 92, -1),
    ("fchown", 93, 55),
    ("lchown", 94, -1),
    ("fchownat", 260, 54),
    ("utime", 132, -1),
    ("utimes", 235, -1),
    ("futimesat", 261, -1),
    ("utimensat", 280, 88),
    ("setxattr", 188, 5),
    ("lsetxattr", 189, 6),
    ("fsetxattr", 190, 7),
    ("removexattr", 197, 14),
    ("lremovexattr", 198, 15),
    ("fremovexattr", 199, 16),
    ("setxattrat", 463, 463),
    ("removexattrat", 466, 466),
    ("file_setattr", 469, 469),
)

# A seccomp filter is a program of the kernel's packet filter: instructions (operation, lines to
# skip if true, lines to skip if false, operand) over the number, architecture and arguments of a
# call.
LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets of these
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000  # FAIL_WITH | an error number
X32 = 0x40000000  # numbers from here on are a second set of the same calls, on x86_64
PERMISSION, NOT_IMPLEMENTED = 1, 38  # EPERM, ENOSYS


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


def forbid_calls(namespaces: bool) -> None:
    """Make system calls fail from here on; OSError where their numbers are not known."""
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(NOT_IMPLEMENTED, f"seccomp: no system call numbers for {machine}")
    calls = FORBIDDEN if namespaces else FORBIDDEN + WITHOUT_NAMESPACES
    program = seccomp_program(MACHINES[machine], calls)
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("<H6xQ", len(program), ctypes.addressof(buffer))
    libc("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)
    libc("prctl", SECCOMP, SECCOMP_FILTER, header, 0, 0)


Instruction = tuple[int, int, int, int]
DENY, ALLOWED = (RETURN, 0, 0, FAIL_WITH | PERMISSION), (RETURN, 0, 0, ALLOW)


def seccomp_program(
    machine: tuple[int, int, int, int], calls: tuple[tuple[str, int, int], ...]
) -> list[Instruction]:
    """The filter: these calls fail, and so do a `clone` into a new user namespace and a `socket` of
    another family than FAMILIES. machine: an entry of MACHINES."""
    architecture, column, clone, socket = machine
    numbers = [call[column] for call in calls if call[column] >= 0]
    # A process may use the calls of other architectures, whose numbers mean something else.
    program = [(LOAD, 0, 0, ARCHITECTURE), (IF_EQUAL, 1, 0, architecture), DENY]
    program += [(LOAD, 0, 0, NUMBER), (IF_AT_LEAST, 0, 1, X32), DENY]
    for number in numbers:
        program += [(IF_EQUAL, 0, 1, number), DENY]
    # clone3 "is not there": its flags are out of sight, and the C library then takes clone.
    program += [(IF_EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, FAIL_WITH | NOT_IMPLEMENTED)]
    program += _socket_filter(socket)
    program += [(IF_EQUAL, 0, 3, clone), (LOAD, 0, 0, FIRST_ARGUMENT)]
    return [*program, (IF_ANY_BIT, 0, 1, NEW_USER), DENY, ALLOWED]


def _socket_filter(socket: int) -> list[Instruction]:
    """A `socket` of another family fails; other calls go on behind this."""
    last = len(FAMILIES)
    families = [(IF_EQUAL, last - i, 0, family) for i, family in enumerate(FAMILIES)]
    checks = [(LOAD, 0, 0, FIRST_ARGUMENT), *families, DENY, ALLOWED]
    return [(IF_EQUAL, 0, len(checks), socket), *checks]


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
