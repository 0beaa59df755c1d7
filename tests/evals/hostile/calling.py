"""Programs that make system calls that no solution needs, by number, past Python's own checks.

Numbers are x86_64's up to 423 and everybody's from 424 on: where one means another call, on another
machine, that one is refused or fails as well.
"""

from evals.hostile.wrong import WRONG

REFUSED = r"^got -1 (1|38)\n"  # EPERM, ENOSYS
CALL = (
    "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "def call(*args):\n"
    "    args = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]\n"
    "    value = libc.syscall(*args)\n"
    "    print('got', value, ctypes.get_errno() if value < 0 else '')\n"
)
HERE = -100  # AT_FDCWD
HIGH = 1 << 32  # a bit that the kernel does not read of a number of 32 bits
X32 = 0x40000000  # a second set of the same calls


def calls(table: dict[str, str], output: str = REFUSED) -> dict[str, tuple[str, str, str]]:
    """A program for each name: a call with these arguments, which has to be refused."""
    return {
        name: (f"{CALL}call({arguments}){WRONG}", "assertion|killed by signal 31", output)
        for name, arguments in table.items()
    }


ATTRIBUTES = calls(
    {
        "setxattr of a file": "188, {canary!r}.encode(), b'user.x', b'x', 1, 0",
        "lsetxattr of a file": "189, {canary!r}.encode(), b'user.x', b'x', 1, 0",
        "fsetxattr of its input": "190, 0, b'user.x', b'x', 1, 0",
        "removexattr of a file": "197, {canary!r}.encode(), b'user.x'",
        "removexattrat of a file": f"466, {HERE}, {{canary!r}}.encode(), 0, b'user.x'",
        "file_setattr of a file": f"469, {HERE}, {{canary!r}}.encode(), bytes(24), 24, 0",
        "file_getattr of a file": f"468, {HERE}, {{canary!r}}.encode(), bytes(24), 24, 0",
        "chown of a file": "92, {canary!r}.encode(), 65534, 65534",
        "fchownat of a file": f"260, {HERE}, {{canary!r}}.encode(), 65534, 65534, 0",
        "a file's flags": "16, 0, 0x40086602, bytes(8)",  # FS_IOC_SETFLAGS
        "a handle of a file": f"303, {HERE}, {{canary!r}}.encode(), bytes(200), bytes(8), 0",
        "a file by its handle": f"304, {HERE}, bytes(200), 0",
        "events of a file system": "300, 0, 0",  # fanotify_init
        "the limits of a disk": "443, 0, 0, 0, 0",  # quotactl_fd
        "all disks written": "162",  # sync
    }
)
NAMESPACES_AND_MOUNTS = calls(
    {
        "open_tree": "428, -100, b'/', 1",
        "open_tree_attr": "467, -100, b'/', 1, 0, 0",
        "fsopen": "430, b'tmpfs', 0",
        "statmount": "457, bytes(24), bytes(512), 512, 0",
        "listmount": "458, bytes(24), bytes(512), 64, 0",
        "clone3": "435, bytes(88), 88",
        "setns": "308, 0, 0",
        "pivot_root": "155, b'.', b'.'",
    }
)
KERNEL = calls(
    {
        "a call that no kernel has yet": "471, 0, 0, 0, 0, 0",
        "a call far from all": "1000, 0, 0, 0, 0, 0",
        "a negative call": "-7",
        "bpf": "321, 0, bytes(128), 128",
        "io_uring": "425, 8, bytes(120)",
        "perf events": "298, bytes(128), 0, -1, -1, 0",
        "userfaultfd": "323, 0",
        "keys": "250, 0, -3, 1",
        "the kernel's log": "103, 3, bytes(4096), 4096",
        "a filter of its own": "317, 1, 0, bytes(16)",
        "a rule of its own": "446, 3, 0",  # landlock_restrict_self
        "another personality": "135, 0x0040000",
        "a segment of its own": "154, 1, bytes(16), 16",  # modify_ldt
        "ports": "172, 3",  # iopl
        "memory pages locked": "151, 3",
        "pages of another process": "279, 1, 0, 0, 0, 0, 0",
        "asynchronous reads": "206, 1000, bytes(8)",
        "a secret memory": "447, 0",
        "a message queue": "240, b'x', 66, 384, 0",
        "a semaphore": "64, 0, 1, 0o1600",
        "a copy of the parent's descriptor": "438, 0, 0, 0",
        "a memory that is a file": "319, b'x', 0",
        "a timer that sends signals": "222, 0, 0, bytes(8)",
        "the time of the machine": "227, 0, bytes(16)",
    }
)
PARENT = calls(
    {
        "clearing the parent's death signal": "157, 1, 0, 0, 0, 0",
        "clearing it past 32 bits": f"157, {HIGH + 1}, 0, 0, 0, 0",
        "clearing it by the other set": f"{X32 + 157}, 1, 0, 0, 0, 0",
        "becoming a reaper": "157, 36, 1, 0, 0, 0",
        "becoming unreadable": "157, 4, 0, 0, 0, 0",
        "another memory map": "157, 35, 1, 0, 0, 0",
        "another filter": "157, 22, 2, bytes(16), 0, 0",
        "calls sent elsewhere": "157, 59, 1, 0, 0, 0",
        "another user of files": "122, 0",
        "no user at all": "117, -1, -1, -1",
        "other groups": "116, 0, 0",
        "more capabilities": "126, bytes(8), bytes(24)",
        "the limits of its parent": "302, os.getppid() or 1, 7, 0, bytes(16)",
        "the processor of its parent": "203, os.getppid() or 1, 8, b'\\1' + bytes(7)",
        "a signal by descriptor": "424, 0, 9, 0, 0",
        "a signal with a value": "129, os.getppid() or 1, 9, bytes(128)",
        "the owner of a pipe": "72, 1, 8, os.getppid() or 1",  # F_SETOWN
        "typing into a terminal": "16, 0, 0x5412, b'x'",  # TIOCSTI
        "typing past 32 bits": f"16, 0, {HIGH + 0x5412}, b'x'",
        "executing": "59, b'/usr/bin/true', 0, 0",
        "executing by descriptor": "322, 0, b'', 0, 0, 0x1000",
        "a larger pipe": "72, 1, 1031, 1 << 20",
        "a smaller pipe": "72, 3, 1031, 4096",
    }
)
FAMILIES = {
    "netlink": 16,
    "packets": 17,
    "reliable datagrams": 21,
    "Bluetooth": 31,
    "a cluster": 30,
    "the kernel's ciphers": 38,
    "a car's bus": 29,
    "a modem": 42,
    "raw queues": 44,
    "keys of a tunnel": 15,
}
SOCKETS = calls(
    {
        **{f"a socket of {name}": f"41, {family}, 2, 0" for name, family in FAMILIES.items()},
        "a socket past 32 bits": f"41, {HIGH + 16}, 3, 0",
        "a socket by the other set": f"{X32 + 41}, 2, 1, 0",
        "a raw socket": "41, 2, 3, 1",
        "a raw socket with flags": "41, 2, 3 | 0o2000000, 255",
        "a socket of sequences": "41, 2, 5, 132",
        "a socket of another protocol": "41, 2, 1, 262",
        "a ping": "41, 2, 2, 1",
        "a pair of sockets of a cluster": "53, 30, 1, 0, bytes(8)",
    }
)

# A call of 32-bit programs has other numbers, and its own entry into the kernel.
OLD_ENTRY = (
    "import ctypes, mmap\ncode = mmap.mmap(-1, 4096, prot=7)\n"
    "code.write(bytes.fromhex('53b8') + ({number}).to_bytes(4, 'little') + bytes.fromhex('bb') +"
    " ({argument}).to_bytes(4, 'little') + bytes.fromhex('31c931d2cd805bc3'))\n"
    "start = ctypes.addressof(ctypes.c_char.from_buffer(code))\nprint('entering', flush=True)\n"
    "value = ctypes.CFUNCTYPE(ctypes.c_uint)(start)()\nprint('got', ctypes.c_int(value).value)\n"
)


def old(number: int, argument: int) -> tuple[str, str, str]:
    code = OLD_ENTRY.replace("{number}", str(number)).replace("{argument}", str(argument))
    return (code + WRONG, "assertion|killed by signal", r"^entering\n(got -1\n)?$")


OLD = {
    "a fork by the old entry": old(2, 0),
    "prctl by the old entry": old(172, 1),
    "a socket by the old entry": old(359, 16),
    "a user by the old entry": old(213, 0),
    "an end of everything by the old entry": old(88, 0xFEE1DEAD),
}
CALLING = ATTRIBUTES | NAMESPACES_AND_MOUNTS | KERNEL | PARENT | SOCKETS | OLD
