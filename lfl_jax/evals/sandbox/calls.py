"""The system calls that an untrusted program may make, and the arguments that they may have.

All others are refused, those too that kernels newer than this list bring. Numbers are those of the
kernel's tables: arch/x86/entry/syscalls/syscall_64.tbl and, for aarch64, scripts/syscall.tbl.
"""

Call = tuple[str, int, int]  # name, number on x86_64, number on aarch64 (-1 where there is none)

# fmt: off
ALLOWED: tuple[Call, ...] = (
    # files: what may be opened is for the mounts, or Landlock, to say
    ("read", 0, 63), ("write", 1, 64), ("pread64", 17, 67), ("pwrite64", 18, 68), ("readv", 19, 65),
    ("writev", 20, 66), ("preadv", 295, 69), ("pwritev", 296, 70), ("preadv2", 327, 286),
    ("pwritev2", 328, 287), ("lseek", 8, 62), ("open", 2, -1), ("openat", 257, 56),
    ("creat", 85, -1), ("close", 3, 57), ("close_range", 436, 436), ("dup", 32, 23),
    ("dup2", 33, -1), ("dup3", 292, 24), ("pipe", 22, -1), ("pipe2", 293, 59), ("stat", 4, -1),
    ("lstat", 6, -1), ("fstat", 5, 80), ("newfstatat", 262, 79), ("statx", 332, 291),
    ("access", 21, -1), ("faccessat", 269, 48), ("faccessat2", 439, 439), ("statfs", 137, 43),
    ("fstatfs", 138, 44), ("readlink", 89, -1), ("readlinkat", 267, 78), ("getdents64", 217, 61),
    ("getcwd", 79, 17), ("chdir", 80, 49), ("fchdir", 81, 50), ("mkdir", 83, -1),
    ("mkdirat", 258, 34), ("rmdir", 84, -1), ("unlink", 87, -1), ("unlinkat", 263, 35),
    ("rename", 82, -1), ("renameat", 264, 38), ("renameat2", 316, 276), ("link", 86, -1),
    ("linkat", 265, 37), ("symlink", 88, -1), ("symlinkat", 266, 36), ("truncate", 76, 45),
    ("ftruncate", 77, 46), ("fsync", 74, 82), ("fdatasync", 75, 83), ("fadvise64", 221, 223),
    ("sendfile", 40, 71), ("copy_file_range", 326, 285), ("umask", 95, 166), ("fcntl", 72, 25),
    ("ioctl", 16, 29), ("poll", 7, -1), ("ppoll", 271, 73), ("select", 23, -1),
    ("pselect6", 270, 72), ("epoll_create", 213, -1), ("epoll_create1", 291, 20),
    ("epoll_ctl", 233, 21), ("epoll_wait", 232, -1), ("epoll_pwait", 281, 22),
    # memory of its own
    ("brk", 12, 214), ("mmap", 9, 222), ("munmap", 11, 215), ("mremap", 25, 216),
    ("mprotect", 10, 226), ("madvise", 28, 233), ("msync", 26, 227),
    # itself, and its threads' locks
    ("exit", 60, 93), ("exit_group", 231, 94), ("wait4", 61, 260), ("waitid", 247, 95),
    ("prctl", 157, 167), ("getpid", 39, 172), ("getppid", 110, 173), ("gettid", 186, 178),
    ("getuid", 102, 174), ("geteuid", 107, 175), ("getgid", 104, 176), ("getegid", 108, 177),
    ("getresuid", 118, 148), ("getresgid", 120, 150), ("getgroups", 115, 158),
    ("getpgid", 121, 155), ("getpgrp", 111, -1), ("getsid", 124, 156), ("getpriority", 140, 141),
    ("getrlimit", 97, 163), ("setrlimit", 160, 164), ("prlimit64", 302, 261),
    ("getrusage", 98, 165), ("times", 100, 153), ("uname", 63, 160), ("sysinfo", 99, 179),
    ("getcpu", 309, 168), ("sched_yield", 24, 124), ("sched_getaffinity", 204, 123),
    ("futex", 202, 98), ("set_robust_list", 273, 99), ("set_tid_address", 218, 96),
    ("rseq", 334, 293), ("getrandom", 318, 278),
    # time
    ("time", 201, -1), ("gettimeofday", 96, 169), ("clock_gettime", 228, 113),
    ("clock_getres", 229, 114), ("nanosleep", 35, 101), ("clock_nanosleep", 230, 115),
    ("alarm", 37, -1), ("pause", 34, -1), ("getitimer", 36, 102), ("setitimer", 38, 103),
    # signals that it receives
    ("rt_sigaction", 13, 134), ("rt_sigprocmask", 14, 135), ("rt_sigreturn", 15, 139),
    ("rt_sigpending", 127, 136), ("rt_sigsuspend", 130, 133), ("rt_sigtimedwait", 128, 137),
    ("sigaltstack", 131, 132), ("restart_syscall", 219, 128),
)
# Allowed, too, where namespaces keep apart what these reach.
WITH_NAMESPACES: tuple[Call, ...] = (
    # processes and threads of its own process tree, and signals to them
    ("clone", 56, 220), ("fork", 57, -1), ("vfork", 58, -1), ("setsid", 112, 157),
    ("setpgid", 109, 154), ("kill", 62, 129), ("tkill", 200, 130), ("tgkill", 234, 131),
    # a network of its own
    ("socket", 41, 198), ("socketpair", 53, 199), ("bind", 49, 200), ("connect", 42, 203),
    ("listen", 50, 201), ("accept", 43, 202), ("accept4", 288, 242), ("getsockname", 51, 204),
    ("getpeername", 52, 205), ("sendto", 44, 206), ("recvfrom", 45, 207), ("sendmsg", 46, 211),
    ("recvmsg", 47, 212), ("sendmmsg", 307, 269), ("recvmmsg", 299, 243), ("shutdown", 48, 210),
    ("setsockopt", 54, 208), ("getsockopt", 55, 209),
    # attributes of files, which Landlock does not guard and read-only mounts do
    ("chmod", 90, -1), ("fchmod", 91, 52), ("fchmodat", 268, 53), ("fchmodat2", 452, 452),
    ("utime", 132, -1), ("utimes", 235, -1), ("futimesat", 261, -1), ("utimensat", 280, 88),
    ("getxattr", 191, 8), ("lgetxattr", 192, 9), ("fgetxattr", 193, 10), ("listxattr", 194, 11),
    ("llistxattr", 195, 12), ("flistxattr", 196, 13),
)
# fmt: on

# A refused call fails with EPERM, but from here on with ENOSYS: these numbers came with Linux 5.1
# and later, the same on every architecture, and whoever uses them knows older kernels without.
# So the C library takes clone where it finds no clone3, whose flags a filter cannot see.
NOT_THERE_FROM = 424

Check = tuple[int, int, tuple[int, ...]]  # index of an argument, mask, what is left may be these
EVERY_BIT = 0xFFFFFFFF  # the kernel takes all arguments below as numbers of 32 bits

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; CLONE_PTRACE, CLONE_PARENT
NO_NAMESPACES = 0x7E020000 | 0x2000 | 0x8000
# AF_UNIX, AF_INET, AF_INET6: the families that a network namespace has of its own. AF_VSOCK, for
# one, reaches the machine around a virtual machine from any of them.
FAMILIES = (1, 2, 10)
STREAM_OR_DATAGRAM = (1, 2)
PROTOCOLS = (0, 6, 17)  # the family's own choice, TCP, UDP

ARGUMENTS: dict[str, tuple[Check, ...]] = {
    # PR_SET_NAME, PR_GET_NAME. Not PR_SET_PDEATHSIG: the signal that ends a program with its
    # parent stays.
    "prctl": ((0, EVERY_BIT, (15, 16)),),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_DUPFD_CLOEXEC. Not
    # F_SETOWN, which has signals sent to any process.
    "fcntl": ((1, EVERY_BIT, (0, 1, 2, 3, 4, 5, 6, 7, 1030)),),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2: what `isatty`, terminal
    # sizes and the C library want. Not TIOCSTI, which types into a terminal.
    "ioctl": ((1, EVERY_BIT, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)),),
    "prlimit64": ((0, EVERY_BIT, (0,)),),  # limits of itself
    "clone": ((0, NO_NAMESPACES, (0,)),),
    "socket": (
        (0, EVERY_BIT, FAMILIES),
        (1, 0xF, STREAM_OR_DATAGRAM),
        (2, EVERY_BIT, PROTOCOLS),
    ),
    "socketpair": ((0, EVERY_BIT, (1,)),),
}
