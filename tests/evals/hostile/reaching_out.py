"""Programs that reach for files, the network, other processes and more rights."""

from evals.hostile.wrong import WRONG

REACHING_OUT = {
    "reading a file": (
        "print(open({canary!r}).read())",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "writing a file": (
        "open({canary!r}, 'a').write('x')",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "removing a file": (
        "import os\nos.remove({canary!r})",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "changing a file's mode": (
        "import os\nos.chmod({canary!r}, 0o777)",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "writing next to a file": (
        "open({canary!r} + '-new', 'w').write('x')",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "writing to /tmp": (
        "open('/tmp/lfl-hostile', 'w').write('x')",
        "exception: (OSError|FileNotFoundError|PermissionError)",
        "",
    ),
    "a symbolic link to a file": (
        "import os\nos.symlink({canary!r}, 'link')\nprint(open('link').read())",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "a symbolic link to a folder, left behind": (
        "import os\nos.symlink(os.path.dirname({canary!r}), 'link')\nprint('linked')" + WRONG,
        "assertion",
        "linked",
    ),
    "a hard link": (
        "import os\nos.link({canary!r}, 'link')",
        "exception: (FileNotFound|Permission|OS)Error",
        "",
    ),
    "leaving the folder by dots": (
        "import os\nprint(open('../' * 30 + {canary!r}).read())",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "a folder that cannot be removed": (
        "import os\nos.mkdir('x')\nopen('x/y', 'w').close()\nprint('made')\ntry:\n    os.chmod('x',"
        " 0)\n"
        "except OSError:\n    pass" + WRONG,
        "assertion",
        "made",
    ),
    "changing Python itself": (
        "import heapq\nopen(heapq.__file__, 'a').write('x')",
        "exception: (OSError|PermissionError)",
        "",
    ),
    "a file's extended attributes": (
        "import ctypes, struct\nvalue = ctypes.create_string_buffer(b'x')\n"
        "args = struct.pack('<QII', ctypes.addressof(value), 1, 0)\n"
        "print('set', ctypes.CDLL(None).syscall(463, ctypes.c_int(-100), {canary!r}.encode(),"
        " ctypes.c_uint(0), b'user.x', args, ctypes.c_size_t(16)))" + WRONG,
        "assertion",
        "set -1",
    ),
    "the home folder": (
        "import os\nprint(os.listdir(os.path.expanduser('~root')))",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "the environment": (
        "import os\nprint(sorted(os.environ))" + WRONG,
        "assertion",
        r"^\[('LC_CTYPE')?\]",
    ),
    "a connection to this machine": (
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1).send(b'x')",
        "exception: (OSError|PermissionError|ConnectionRefusedError)",
        "",
    ),
    "a datagram": (
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1',"
        " {port}))",
        "exception: (OSError|PermissionError)",
        "",
    ),
    "a socket to the machine around a virtual machine": (
        "import socket\nprint('opening')\nsocket.socket(40, socket.SOCK_STREAM)",
        "exception: (OSError|PermissionError)",
        "opening",
    ),
    "a socket to the kernel's tables of routes": (
        "import socket\nprint('opening')\nsocket.socket(16, socket.SOCK_RAW)",
        "exception: (OSError|PermissionError)",
        "opening",
    ),
    "folders nested deeply, left behind": (
        "import os\ntry:\n    for i in range(1500):\n        os.mkdir('d')\n        os.chdir('d')\n"
        "except OSError:\n    pass\nprint('deep')" + WRONG,
        "assertion",
        "deep",
    ),
    "killing the parent": (
        "import os\ntry:\n    os.kill(os.getppid(), 9)\nexcept OSError:\n    pass\nprint('tried')"
        + WRONG,
        "assertion",
        "tried",
    ),
    "killing everything": (
        "import os\ntry:\n    os.kill(-1, {kill})\nexcept OSError:\n    print('tried')" + WRONG,
        "assertion",
        "tried",
    ),
    "killing its group": (
        "import os\nprint('tried')\nos.killpg(0, 9)" + WRONG,
        "killed by signal 9",
        "",
    ),
    "ptrace": (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\nfor pid in (1, os.getppid()):\n"
        "    print('attached', libc.ptrace(16, pid, 0, 0))" + WRONG,
        "assertion",
        "^attached -1\nattached -1",
    ),
    "the memory of the parent": (
        "import os\nopen(f'/proc/{{os.getppid()}}/mem', 'r+b')",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "its own memory": (
        "open('/proc/self/mem', 'r+b')",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "a shell": (
        "import os\nos.execv('/bin/sh', ['sh', '-c', 'touch {canary}-new'])",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "a command": (
        "import os\nprint('status', os.system('touch {canary}-new') == 0)" + WRONG,
        "assertion|exception: (OS|Permission)Error",
        "",
    ),
    "Python anew": (
        "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(1)'])",
        "exception: (FileNotFound|Permission)Error",
        "",
    ),
    "more of everything": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "exception: (ValueError|PermissionError)",
        "",
    ),
    "more often": ("import os\nos.nice(-10)", "exception: PermissionError", ""),
    "a namespace of its own": (
        "import ctypes\nprint('entered', ctypes.CDLL(None).unshare(0x10000000))" + WRONG,
        "assertion",
        "entered -1",
    ),
    "a child in a namespace of its own": (
        "import ctypes\nprint('entered', ctypes.CDLL(None).syscall(56, 0x10000011, 0, 0, 0, 0))"
        + WRONG,
        "assertion",
        "entered -1",
    ),
    "a mount": (
        "import ctypes\nprint('mounted', ctypes.CDLL(None).mount(b'x', b'.', b'tmpfs', 0, None))"
        + WRONG,
        "assertion",
        "mounted -1",
    ),
    "another root": ("import os\nos.chroot('.')", "exception: PermissionError", ""),
    "a device": (
        "import os, stat\nos.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))",
        "exception: PermissionError",
        "",
    ),
    "another user": (
        "import os\nos.setuid(0)\nprint('still', os.listdir('/root'))",
        "exception: ",
        "",
    ),
}
