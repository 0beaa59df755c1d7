"""Programs that use all of something, and programs that try to outlive their sandbox."""

from evals.hostile.wrong import WRONG

EXHAUSTING = {
    "fork bomb": (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "timeout",
        "",
    ),
    "thread bomb": (
        "import threading, time\nn = 0\ntry:\n    while True:\n        "
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n        n += 1\n"
        "except RuntimeError:\n    print('stopped', n < 10)" + WRONG,
        "assertion",
        "stopped True",
    ),
    "memory, bit by bit": (
        "kept = []\nwhile True:\n    kept.append(bytearray(10**6))",
        "memory",
        "",
    ),
    "memory, at once": ("def f(x):\n    return 'x' * 10**11", "memory", ""),
    "memory, shared": (
        "import ctypes\nprint('got', ctypes.CDLL(None).shmget(0, 10**8, 0o1600) >= 0)" + WRONG,
        "assertion",
        "got False",
    ),
    "memory, in a file that is none": (
        "import os\nos.memfd_create('x')",
        "exception: PermissionError",
        "",
    ),
    "a large file": (
        "with open('x', 'wb', buffering=0) as file:\n    while True:\n"
        "        file.write(bytes(10**6))",
        "exception: OSError .*(No space|too large)",
        "",
    ),
    "many large files": (
        "for i in range(100):\n    with open(str(i), 'wb', buffering=0) as file:\n"
        "        file.write(bytes(10**6))",
        "exception: OSError .*No space",
        "",
    ),
    "many files": (
        "for i in range(10**6):\n    open(str(i), 'w').close()",
        "exception: OSError .*No space",
        "",
    ),
    "many open files": (
        "kept = [open('x', 'w') for i in range(10**4)]",
        "exception: OSError .*Too many open",
        "",
    ),
    "endless output": ("while True:\n    print('x' * 1000)", "timeout", "^x{100}"),
    "endless output, raw": (
        "import os\nwhile True:\n    os.write(2, b'y' * 60000)",
        "timeout",
        "^y{100}",
    ),
    "a large power": ("def f(x):\n    return 7 ** 7 ** 9 % 10", "timeout|memory", ""),
    "a regular expression that backtracks": (
        "import re\ndef f(x):\n    return re.match('(a+)+$', 'a' * 60 + 'b')",
        "timeout",
        "",
    ),
    "an endless loop that catches everything": (
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n"
        "        pass",
        "timeout",
        "",
    ),
    "sleep": ("import time\ntime.sleep(10**6)", "timeout", ""),
    "sleep in the call": ("import time\ndef f(x):\n    time.sleep(10**6)", "timeout", ""),
    "stopping itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "timeout", ""),
    "deep recursion": ("def f(x):\n    return f(x) + 1", "exception: RecursionError", ""),
    "deep recursion without a limit": (
        "import sys\nsys.setrecursionlimit(2**31 - 1)\ndef f(x):\n    return f(x) + 1",
        "memory|killed by signal 11|timeout",
        "",
    ),
    "deep recursion in C": (
        "import sys\nsys.setrecursionlimit(2**31 - 1)\nx = []\nfor i in range(10**6):\n    x ="
        " [x]\nrepr(x)",
        "memory|timeout|killed by signal|exception: RecursionError",
        "",
    ),
    "a large reply": ("def f(x):\n    return 'x' * 10**7", "unreadable reply", ""),
    "a nested reply": (
        "def f(x):\n    for i in range(10**5):\n        x = [x]\n    return x",
        "exception: RecursionError",
        "",
    ),
    "a reply that contains itself": (
        "def f(x):\n    x = []\n    x.append(x)\n    return x",
        "exception: RecursionError|memory|timeout",
        "",
    ),
    "an endless iterator": (
        "import itertools\ndef f(x):\n    return itertools.count()",
        "assertion",
        "",
    ),
}

OUTLIVING = {
    "a daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\nprint('forked')" + WRONG,
        "assertion",
        "forked",
    ),
    "a daemon whose parent exits": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(600)\n"
        "os._exit(0)",
        "exited early: code 0",
        "",
    ),
    "a child in a session of its own": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nprint('forked')"
        + WRONG,
        "assertion",
        "forked",
    ),
    "signals ignored": (
        "import signal\nfor s in (signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU, signal.SIGINT,"
        " signal.SIGHUP):\n"
        "    signal.signal(s, signal.SIG_IGN)\nwhile True:\n    pass",
        "timeout",
        "",
    ),
    "signals blocked": (
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1,"
        " 65))\ntime.sleep(600)",
        "timeout",
        "",
    ),
    "prctl": (
        "import ctypes, os, time\nlibc = ctypes.CDLL(None)\nlibc.prctl(1, 0)\nlibc.prctl(36,"
        " 1)\nlibc.prctl(4, 1)\n"
        "if os.fork() == 0:\n    libc.prctl(1, 0)\n    time.sleep(600)\ntime.sleep(600)",
        "timeout",
        "",
    ),
    "a timer that answers its own signals": (
        "import signal, time\nsignal.signal(signal.SIGALRM, lambda *a:"
        " signal.setitimer(signal.ITIMER_REAL, 0.01))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile True:\n    time.sleep(1)",
        "timeout",
        "",
    ),
    "exiting late": (
        "import atexit, time\natexit.register(time.sleep, 600)\nraise SystemExit(0)",
        "exited early",
        "",
    ),
    "a finaliser that sleeps": (
        "import time\nclass Late:\n    def __del__(self):\n        time.sleep(600)\nlate = Late()"
        + WRONG,
        "assertion",
        "",
    ),
}
