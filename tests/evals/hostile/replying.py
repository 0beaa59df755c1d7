"""Programs that write replies by hand, or whose values, exceptions and outputs are to break what
reads them."""

from evals.hostile.wrong import WRONG


def by_hand(reply: str, times: int = 1) -> str:
    """Code that writes this reply to the request that is the running of the code, and later ones."""
    return f"import struct, time, wire, os\nfor i in range({times}):\n    wire.write(4, {reply})\n"


ANY = "unreadable reply|exception|assertion|exited early|memory|timeout|the tests were killed"
BY_HAND = {
    "an empty reply": "b''",
    "a reply of no kind": "b'x'",
    "an exception that is a number": "b'ei1;'",
    "an exception of one part": "b'et1;s1;A'",
    "an exception without a name": "b'et2;Ns1;A'",
    "an exception whose name is an object": "b'et2;h0;h0;'",
    "an exception that is an object": "b'eh0;'",
    "an exception whose name is a list": "b'e' + wire.encode((['x'] * 10**5, 'x'), None)",
    "an exception of 3 MB": "b'e' + wire.encode(('A' * 3000000, 'B'), None)",
    "an exception with half a pair": "b'e' + wire.encode(('\\ud83d', '\\ud83d'), None)",
    "an exception with a zero in its name": "b'e' + wire.encode(('A\\0B', 'x'), None)",
    "an exception called None": "b'e' + wire.encode(('None', ''), None)",
    "an exception called __import__": "b'e' + wire.encode(('__import__', 'os'), None)",
    "an exception called BaseException": "b'e' + wire.encode(('BaseException', ''), None)",
    "an exception called Stop": "b'e' + wire.encode(('Stop', 'passed'), None)",
    "an exception called ExceptionGroup": "b'e' + wire.encode(('ExceptionGroup', ''), None)",
    "an exception called UnicodeDecodeError": "b'e' + wire.encode(('UnicodeDecodeError', ''), None)",
    "a list of negative length": "b'vl-1;'",
    "a text longer than the reply": "b'vs99;abc'",
    "a text of negative length": "b'vs-1;abc'",
    "a dict of half a pair": "b'vd3;i1;i2;i3;'",
    "a dict whose key is a list": "b'vd2;l0;i1;'",
    "a set of lists": "b'vS1;l0;'",
    "a fraction of a large power": "b'vD39;fractions.Fraction:1e999999999999999999'",
    "a decimal of a large power": "b'vD34;decimal.Decimal:1e999999999999999999'",
    "a decimal that signals": "b'vD20;decimal.Decimal:sNaN'",
    "a fraction by zero": "b'vD22;fractions.Fraction:1/0'",
    "an exact number of another module": "b'vD13;os.system:true'",
    "a number of a million digits": "b'vi' + b'f' * 10**6 + b';'",
    "a number that is none": "b'vi0x_;'",
    "a range without a step": "b'vr0;9;0;'",
    "lists in lists": "b'v' + b'l1;' * 10**5",
    "text that is no text": "b'vs2;\\xff\\xfe'",
    "a reply and more": "b'vN' + bytes(1000)",
    "an object that is nowhere": "b'vh99999999999;'",
    "an object before all": "b'vh-1;'",
    "a global that is nowhere": "b'vg5;nobody'",
    "a million replies in one": "b'vl1000000;' + b'N' * 10**6",
}
SLOW = "timeout"
REPLYING = {
    **{name: (by_hand(reply, 3) + WRONG, ANY, "") for name, reply in BY_HAND.items()},
    "half a length": ("import os, time\nos.write(4, b'abc')\ntime.sleep(600)", SLOW, ""),
    "a length, and no reply": (
        "import os, struct, time\nos.write(4, struct.pack('<Q', 1000))\ntime.sleep(600)",
        SLOW,
        "",
    ),
    "a reply byte by byte": (
        "import os, struct, time\nos.write(4, struct.pack('<Q', 1 << 20))\nwhile True:\n"
        "    os.write(4, b'x')\n    time.sleep(0.01)",
        SLOW,
        "",
    ),
    "a request that it reads itself": (
        by_hand("b'vN'") + "os.read(3, 100)\ntime.sleep(600)",
        SLOW,
        "",
    ),
    "requests closed": (
        by_hand("b'vN'") + "os.close(3)\ntime.sleep(600)",
        "exited early|timeout",
        "",
    ),
    "output into replies": ("import os\nos.dup2(4, 1)\nprint('x' * 100)" + WRONG, ANY, ""),
    "replies into output": ("import os\nos.dup2(1, 4)" + WRONG, "exited early: code 0", ""),
    "pipes that do not wait": (
        "import os\nfor fd in range(5):\n    os.set_blocking(fd, False)\nprint('set')" + WRONG,
        "assertion|exited early|timeout",
        "set",
    ),
    "endless output and a reply": (
        "import os, threading, time\ndef shout():\n    while True:\n        os.write(1, b'z' * 9999)\n"
        "try:\n    threading.Thread(target=shout, daemon=True).start()\nexcept RuntimeError:\n    pass"
        + WRONG,
        "assertion",
        "",
    ),
    "an exception with half a pair, raised": (
        "def f(x):\n    raise ValueError('\\ud83d')",
        r"exception: ValueError \\ud83d",
        "",
    ),
    "an exception with terminal escapes": (
        "def f(x):\n    raise ValueError('\\x1b[2J\\x1b]0;x\\x07')",
        r"exception: ValueError \\x1b\[2J",
        "",
    ),
    "an exception of 3 MB, raised": (
        "def f(x):\n    raise ValueError('A' * 3000000)",
        "exception: ValueError A{200}$",
        "",
    ),
    "an exception with a long name": (
        "def f(x):\n    raise type('A' * 10**6, (Exception,), {{}})('x')",
        "exception: A{100} x$",
        "",
    ),
    "an exception whose text raises": (
        "class E(Exception):\n    def __str__(self):\n        raise SystemExit\ndef f(x):\n"
        "    raise E",
        "exception: E",
        "",
    ),
    "an exception whose text sleeps": (
        "import time\nclass E(Exception):\n    def __str__(self):\n        time.sleep(600)\n"
        "def f(x):\n    raise E",
        SLOW,
        "",
    ),
    "an exception whose text is a text of its own": (
        "class S(str):\n    def __getitem__(self, key):\n        return S(self)\n    def"
        " encode(self, *a):\n        return b'vT'\nclass E(Exception):\n    def __str__(self):\n"
        "        return S('x' * 10**5)\ndef f(x):\n    raise E",
        "exception: E",
        "",
    ),
    "output that is no text": (
        "import sys\nsys.stdout.buffer.write(b'\\xed\\xa0\\xbd\\xff\\0')" + WRONG,
        "assertion",
        "",
    ),
    "half a pair, printed": ("print('\\ud83d')" + WRONG, "exception: UnicodeEncodeError", ""),
    "half a pair, returned": ("def f(x):\n    return '\\ud83d'", "assertion", ""),
    "outputs closed, then an exception": (
        "import os, sys\nsys.stdout.close()\nos.close(2)\ndef f(x):\n    raise ValueError('\\ud83d')",
        "exception: ValueError",
        "",
    ),
    "outputs replaced by None": (
        "import sys\nsys.stdout = sys.stderr = None\ndef f(x):\n    print('x')",
        "assertion",
        "",
    ),
    "outputs whose flush exits": (
        "import os, sys\nclass O:\n    def flush(self):\n        os._exit(0)\nsys.stdout = O()"
        + WRONG,
        "exited early: code 0",
        "",
    ),
}
