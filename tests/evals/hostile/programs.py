"""Programs that try to harm the machine or to pass without solving anything: name -> (code, reason,
output).

Each is run with the tests `assert f(1) == 2` and `assert f(2) == 3`. reason and output are regular
expressions that the verdict must match, so that a program that fails for another reason, before its
attack, is noticed. The text that is printed when the attack got as far as it could is put together
at run time. {canary} is a file outside of the sandbox, {port} a listening TCP port of the machine,
{token} a word that only the tests contain (split in two).
"""

WRONG = "\ndef f(x):\n    return 0\n"

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

PRETENDING = {
    "os._exit": ("import os\nos._exit(0)", "exited early: code 0", ""),
    "os._exit in the call": ("import os\ndef f(x):\n    os._exit(0)", "exited early: code 0", ""),
    "sys.exit": ("import sys\nsys.exit(0)", "exited early: SystemExit", ""),
    "SystemExit in the call": (
        "def f(x):\n    raise SystemExit(0)",
        "exited early: SystemExit",
        "",
    ),
    "KeyboardInterrupt": (
        "def f(x):\n    raise KeyboardInterrupt",
        "exited early: KeyboardInterrupt",
        "",
    ),
    "GeneratorExit": ("def f(x):\n    raise GeneratorExit", "exited early: GeneratorExit", ""),
    "an exception of its own": (
        "class Stop(BaseException):\n    pass\ndef f(x):\n    raise Stop('passed')",
        "exception: Stop passed",
        "",
    ),
    "exit handlers": (
        "import atexit, os\natexit.register(os._exit, 0)\natexit.register(print, 'passed')\nraise"
        " SystemExit",
        "exited early",
        "",
    ),
    "no function": ("g = 1", "exception: NameError", ""),
    "a number instead of a function": ("f = 2", "exception: TypeError", ""),
    "a syntax error": ("def f(x)\n    return 2", "exception: SyntaxError", ""),
    "an object that equals everything": (
        "class Any:\n    def __eq__(self, other):\n        return True\n    def __ne__(self,"
        " other):\n"
        "        return False\n    __hash__ = object.__hash__\ndef f(x):\n    return Any()",
        "assertion",
        "",
    ),
    "a number that equals everything": (
        "class Any(int):\n    def __eq__(self, other):\n        return True\ndef f(x):\n    return"
        " Any(99)",
        "assertion",
        "",
    ),
    "an object that says it is a number": (
        "class Any:\n    __class__ = property(lambda self: int)\n    def __eq__(self, other):\n"
        "        return True\n"
        "def f(x):\n    return Any()",
        "assertion|exception: TypeError",
        "",
    ),
    "a type that equals everything": (
        "class Meta(type):\n    def __eq__(self, other):\n        return True\n    __hash__ ="
        " type.__hash__\n"
        "class Any(metaclass=Meta):\n    pass\ndef f(x):\n    return Any",
        "assertion",
        "",
    ),
    "no assertion error": (
        "import builtins\nbuiltins.AssertionError = type('Fine', (BaseException,),"
        " {{}})\nprint('patched')" + WRONG,
        "assertion",
        "patched",
    ),
    "patched builtins": (
        "import builtins\nfor name in ('compile', 'exec', 'eval', 'isinstance', 'getattr', 'len',"
        " '__build_class__'):\n"
        "    setattr(builtins, name, lambda *a, **k: True)\nos = None" + WRONG,
        "",
        "",
    ),
    "no builtins": ("import builtins\nbuiltins.__dict__.clear()", "", ""),
    "a patched checker": (
        "import __main__\nfor name in ('judge', 'finish', 'supervise'):\n"
        "    setattr(__main__, name, lambda *a: (True, 'passed'))\n"
        "__main__.AssertionError = Exception\nprint('patched')" + WRONG,
        "assertion",
        "patched",
    ),
    "a patched encoder": (
        "import __main__\n__main__.encode = lambda *a: b'T'\nprint('patched')" + WRONG,
        "assertion",
        "patched",
    ),
    "running the checker itself": (
        "import __main__\nprint('ran')\n__main__.main()",
        "",
        "",
    ),
    "the success message on every descriptor": (
        "import os\nfor fd in range(32):\n    try:\n        "
        "os.write(fd, repr(('verdict', True, 'passed', 0.1, '')).encode())\n    except OSError:\n"
        "        pass" + WRONG,
        "unreadable reply",
        "verdict",
    ),
    "the success message as a reply": (
        "import __main__\nmessage = b'v' + __main__.encode(('verdict', True, 'passed', 0.1, ''),"
        " None)\n"
        "for i in range(9):\n    __main__.write(4, message)" + WRONG,
        "assertion",
        "",
    ),
    "replies of True": (
        "import __main__\nfor i in range(9):\n    __main__.write(4, b'vT')" + WRONG,
        "assertion",
        "",
    ),
    "replies that are no data": (
        "import __main__\nfor i in range(9):\n    __main__.write(4, b'vl999999999;')" + WRONG,
        "unreadable reply",
        "",
    ),
    "a reply longer than said": (
        "import os, struct\nos.write(4, struct.pack('<Q', 2**63) + b'x')" + WRONG,
        "unreadable reply",
        "",
    ),
    "closed descriptors": ("import os\nos.closerange(0, 1000)" + WRONG, "exited early", ""),
    "a closed reply, and sleep": (
        "import os, time\nos.close(4)\ntime.sleep(600)",
        "exited early",
        "",
    ),
    "the tests in the frames": (
        "import sys\nframe, found = sys._getframe(), []\nwhile frame:\n"
        "    found.append(repr(frame.f_locals) + repr(frame.f_globals) +"
        " repr(frame.f_code.co_consts))\n"
        "    frame = frame.f_back\nprint('found', {token} in ''.join(found))" + WRONG,
        "assertion",
        "found False",
    ),
    "the tests among all objects": (
        "import gc\nword = {token}\n"
        "found = [x for o in gc.get_objects() for x in (o.values() if type(o) is dict else o if"
        " type(o) in "
        "(list, tuple) else ()) if type(x) in (str, bytes) and word in str(x)]\n"
        "print('found', len([x for x in found if x is not word and len(x) < 5000]) > 0)" + WRONG,
        "assertion",
        "found False",
    ),
    "the tests in the call": (
        "import sys\ndef f(x):\n    frame, found = sys._getframe(), ''\n    while frame:\n"
        "        found += repr(frame.f_locals)\n        frame = frame.f_back\n    print('found',"
        " {token} in found)\n"
        "    return 0",
        "assertion",
        "found False",
    ),
    "standard input": (
        "import sys\nprint('read', repr(sys.stdin.read()))" + WRONG,
        "assertion",
        "read ''",
    ),
    "a crash": ("import ctypes\nctypes.string_at(0)", "killed by signal 11", ""),
    "an abort": ("import os\nos.abort()", "killed by signal 6", ""),
    "a crash through faulthandler": (
        "import faulthandler\nfaulthandler.enable()\nfaulthandler._sigsegv()",
        "killed by signal 11",
        "Segmentation fault",
    ),
    "an exit through faulthandler": (
        "import faulthandler, time\nfaulthandler.dump_traceback_later(0.1,"
        " exit=True)\ntime.sleep(60)",
        "exited early: code 1",
        "Timeout",
    ),
}

PROGRAMS = EXHAUSTING | OUTLIVING | REACHING_OUT | PRETENDING
