"""More programs that try to pass without solving anything: ends that look like success."""

from evals.hostile.wrong import WRONG


def raising(name: str) -> str:
    return f"def f(x):\n    raise {name}"


DECEIVING = {
    "StopIteration": (raising("StopIteration"), "exception: StopIteration", ""),
    "StopIteration with a value": (raising("StopIteration(2)"), "exception: StopIteration 2", ""),
    "StopIteration of its own class": (
        "class S(StopIteration):\n    pass\n" + raising("S"),
        "exception: S",
        "",
    ),
    "StopAsyncIteration": (raising("StopAsyncIteration"), "exception: StopAsyncIteration", ""),
    "AssertionError": (raising("AssertionError"), "assertion", ""),
    "AssertionError that says passed": (
        raising("AssertionError('passed')"),
        "assertion passed",
        "",
    ),
    "an exit as a class of its own": (
        "class S(SystemExit):\n    pass\n" + raising("S(0)"),
        "exception: S",
        "",
    ),
    "a group of exits": (
        raising("BaseExceptionGroup('x', [SystemExit(0)])"),
        "exception: BaseExceptionGroup",
        "",
    ),
    "quit": ("quit = exit = None\nimport os\nos.kill(os.getpid(), 15)", ".*", ""),
    "os._exit(0) in an exit handler": (
        "import atexit, os, sys\natexit.register(os._exit, 0)\nsys.exit(0)",
        "exited early",
        "",
    ),
    "os._exit(0) in a finaliser": (
        "import os\nclass D:\n    def __del__(self):\n        os._exit(0)\ndef f(x):\n    D()\n"
        "    return 2",
        "exited early: code 0",
        "",
    ),
    "os._exit(0) in a signal": (
        "import os, signal, time\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.05)\ndef f(x):\n    time.sleep(5)",
        "exited early: code 0",
        "",
    ),
    "os._exit(0) while it is traced": (
        "import os, sys\ndef f(x):\n    sys.settrace(lambda *a: os._exit(0))\n    return g(x)\n"
        "def g(x):\n    return 2",
        "exited early: code 0",
        "",
    ),
    "the supervisor's exit code": ("import os\nos._exit(250)", "disk|exited early", ""),
    "a thread that exits": (
        "import os, threading\ntry:\n    threading.Thread(target=os._exit, args=(0,)).start()\n"
        "except RuntimeError:\n    os._exit(0)\nimport time\ntime.sleep(5)",
        "exited early: code 0",
        "",
    ),
    "a number that subtracts itself away": (
        "class N(int):\n    __hash__ = int.__hash__\n    def __eq__(self, other):\n"
        "        return True\n    def __sub__(self, other):\n        return 0\n    def __index__("
        "self):\n        return 2\ndef f(x):\n    return N(7)",
        "assertion",
        "",
    ),
    "a list that equals everything": (
        "class L(list):\n    def __eq__(self, other):\n        return True\ndef f(x):\n"
        "    return L()",
        "assertion",
        "",
    ),
    "a dict that equals everything": (
        "class D(dict):\n    def __eq__(self, other):\n        return True\ndef f(x):\n"
        "    return D()",
        "assertion",
        "",
    ),
    "a text that equals everything": (
        "class S(str):\n    def __eq__(self, other):\n        return True\n    def encode(self,"
        " *a):\n        return b'x'\ndef f(x):\n    return S('2')",
        "assertion",
        "",
    ),
    "a decimal of its own": (
        "class Decimal:\n    def __eq__(self, other):\n        return True\n    def __format__("
        "self, s):\n        return '2'\nDecimal.__module__ = 'decimal'\ndef f(x):\n"
        "    return Decimal()",
        "assertion|exception",
        "",
    ),
    "not implemented": ("def f(x):\n    return NotImplemented", "assertion", ""),
    "not a number": ("def f(x):\n    return float('nan')", "assertion", ""),
    "itself": ("def f(x):\n    return f", "assertion", ""),
    "a type": ("def f(x):\n    return int", "assertion", ""),
    "a generator": ("def f(x):\n    yield 2", "assertion", ""),
    "a coroutine": ("async def f(x):\n    return 2", "assertion", ""),
    "a partial": ("import functools\nf = functools.partial(lambda x: print)", "assertion", ""),
    "a class whose instances are all equal": (
        "class f:\n    def __init__(self, x):\n        pass\n    def __eq__(self, other):\n"
        "        return True",
        "assertion",
        "",
    ),
    "a module instead of its own": (
        "import sys\nsys.modules['solution'] = type(sys)('x')\ndel sys.modules['wire']" + WRONG,
        "assertion",
        "",
    ),
    "globals of one value": (
        "class D(dict):\n    def __missing__(self, key):\n        return lambda x: True\n"
        "globals().clear()",
        "exception: NameError",
        "",
    ),
    "a patched decoder": (
        "import untrusted, wire\nuntrusted.decode = wire.decode = lambda *a: ('call', lambda:"
        " True, (), {{}})\nprint('patched')",
        "assertion",
        "patched",
    ),
    "a patched writer": (
        "import untrusted, wire\nwrite = wire.write\nuntrusted.write = lambda fd, data: write(fd,"
        " b'vT')\nprint('patched')" + WRONG,
        "assertion",
        "patched",
    ),
    "a patched integer encoder": (
        "import wire\nwire.ENCODERS = ((object, lambda v, r: b'T'),)\nprint('patched')" + WRONG,
        "assertion",
        "patched",
    ),
    "a patched struct": (
        "import os, struct\nstruct.pack = lambda *a: bytes(8)\nprint('patched')" + WRONG,
        "unreadable reply|assertion|timeout|exception",
        "",
    ),
    "the tests in the memory of the C library": (
        "import ctypes\nword = {token}.encode()\nspace = id(object())\nfound = 0\nfor start in"
        " range(-200, 200):\n    address = space + start * 4096\n    try:\n        libc ="
        " ctypes.CDLL(None, use_errno=True)\n        ends = (ctypes.c_int * 2)()\n"
        "        libc.pipe(ends)\n        if libc.write(ends[1], ctypes.c_void_p(address), 4096) > 0:\n"
        "            import os\n            found += os.read(ends[0], 4096).count(b'assert ' + b'f(1)')\n"
        "    finally:\n        libc.close(ends[0])\n        libc.close(ends[1])\nprint('found', found)"
        + WRONG,
        "assertion",
        "found 0",
    ),
    "the tests in files of processes": (
        "import os\nfor name in ('environ', 'cmdline', 'fd/0', 'mem'):\n    try:\n"
        "        print('read', open(f'/proc/{{os.getppid()}}/' + name, 'rb').read(99))\n    except"
        " OSError:\n        pass\nprint('tried')" + WRONG,
        "assertion",
        "^tried",
    ),
    "a frame's locals": (
        "import sys\ndef f(x):\n    frame = sys._getframe(1)\n    while frame:\n"
        "        frame.f_locals.update(reply=b'vT')\n        frame.f_trace = lambda *a: None\n"
        "        frame = frame.f_back\n    return 0",
        "assertion",
        "",
    ),
    "a replaced code object": (
        "import untrusted\nuntrusted.serve.__code__ = (lambda code: None).__code__\n"
        "untrusted.message.__code__ = (lambda error: 'passed').__code__\nprint('patched')" + WRONG,
        "assertion",
        "patched",
    ),
    "objects that the collector finds": (
        "import gc\nfor o in gc.get_objects():\n    if type(o) is dict and 'passed' in o:\n"
        "        o['passed'] = True\nprint('looked')" + WRONG,
        "assertion",
        "looked",
    ),
    "an import hook": (
        "import sys\nclass H:\n    def find_spec(self, *a):\n        raise SystemExit(0)\n"
        "sys.meta_path.insert(0, H())\nimport decimal" + WRONG,
        "exited early: SystemExit|assertion",
        "",
    ),
    "a hook of exceptions": (
        "import os, sys\nsys.excepthook = sys.unraisablehook = lambda *a: os._exit(0)\ndef f(x):\n"
        "    return 1 / 0",
        "exception: ZeroDivisionError",
        "",
    ),
    "an audit hook": (
        "import os, sys\nsys.addaudithook(lambda *a: os._exit(0))\nopen('x', 'w')" + WRONG,
        "exited early: code 0",
        "",
    ),
}
