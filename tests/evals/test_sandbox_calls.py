"""The sandbox's list of system calls: numbers against the kernel's tables, the filter's program run
here for both machines, and both levels asked for every number."""

import json
import re
import sys
from pathlib import Path

import pytest
from evals.hostile.attack import LOW, TESTS

from lfl_jax.evals import sandbox
from lfl_jax.evals.sandbox import Program

FOLDER = Path(sandbox.__file__).parent
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026
# The kernel's tables as its C headers have them, on a machine of x86_64.
HEADERS = {
    1: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    2: Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.fixture(scope="module")
def modules():
    """The child's modules, which import one another as scripts do."""
    names = ("calls", "isolation", "seccomp")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield {name: __import__(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("column", HEADERS)
def test_numbers_are_those_of_the_kernel_s_tables(modules, column):
    if not HEADERS[column].exists():
        pytest.skip(f"no {HEADERS[column]}")
    pattern = r"#define __NR(?:3264)?_(\w+)\s+(\d+)"
    table = {}
    for name, number in re.findall(pattern, HEADERS[column].read_text()):
        table.setdefault(name.replace("fstatat", "newfstatat").replace("newnew", "new"), number)
    calls = modules["calls"].ALLOWED + modules["calls"].WITH_NAMESPACES
    newest = max(int(number) for number in table.values() if int(number) < 1000)
    for call in calls:
        if call[column] > newest:  # the headers of an older kernel
            assert call[1] == call[2]
        elif call[column] >= 0:
            assert table[call[0]] == str(call[column]), call
        else:
            assert int(table.get(call[0], 1024)) >= 1024, call  # a number of old programs alone
    assert len({call[0] for call in calls}) == len(calls) > 150


def outcome(program, architecture, number, args=()):
    """What a filter says to a call: the packet filter's instructions that filters are made of."""
    words = {0: number & 0xFFFFFFFF, 4: architecture}
    for i, arg in enumerate((*args, *[0] * (6 - len(args)))):
        words[16 + 8 * i] = arg & 0xFFFFFFFF
        words[20 + 8 * i] = arg >> 32 & 0xFFFFFFFF
    value, line = 0, 0
    tests = {0x15: int.__eq__, 0x25: int.__gt__, 0x35: int.__ge__}
    while True:
        code, if_true, if_false, operand = program[line]
        line += 1
        if code == 0x20:
            value = words[operand]
        elif code == 0x54:
            value &= operand
        elif code in tests:
            line += if_true if tests[code](value, operand) else if_false
        else:
            assert code == 0x06
            return operand


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("namespaces", [True, False])
def test_the_filter_allows_what_is_listed_and_nothing_else(modules, machine, namespaces):
    calls, seccomp = modules["calls"], modules["seccomp"]
    architecture, column = seccomp.MACHINES[machine]
    listed = calls.ALLOWED + (calls.WITH_NAMESPACES if namespaces else ())
    program = seccomp.program(machine, listed)
    assert len(program) < 4096 and all(0 <= i < 256 for line in program for i in line[1:3])
    plain = {call[column] for call in listed if call[0] not in calls.ARGUMENTS}
    checked = {call[column]: call[0] for call in listed if call[0] in calls.ARGUMENTS}
    for number in [*range(700), 0x40000000, 0x40000000 + 39, 2**31, 2**32 - 1]:
        said = outcome(program, architecture, number)
        if number in checked:
            first = all(0 in values for _, _, values in calls.ARGUMENTS[checked[number]])
            assert said == (ALLOW if first else EPERM), number
        elif number in plain:
            assert said == ALLOW, number
        else:
            assert said == (EPERM if number < 424 else ENOSYS), number
        assert outcome(program, 0x40000003, number) == EPERM  # a call of a 32-bit program


NEW_USER, PARENT, THREAD = 0x10000000, 0x8000, 0x3D0F00
ARGUMENTS = [
    ("prctl", (15,), ALLOW),
    ("prctl", (1,), EPERM),
    ("prctl", ((1 << 32) + 1,), EPERM),
    ("prctl", ((1 << 32) + 15,), ALLOW),
    ("fcntl", (7, 2), ALLOW),
    ("fcntl", (2, 8), EPERM),
    ("ioctl", (1, 0x5401), ALLOW),
    ("ioctl", (1, 0x5412), EPERM),
    ("ioctl", (1, (1 << 32) + 0x5412), EPERM),
    ("prlimit64", (0, 7), ALLOW),
    ("prlimit64", (7, 0), EPERM),
    ("clone", (THREAD,), ALLOW),
    ("clone", (17,), ALLOW),
    ("clone", (THREAD | NEW_USER,), EPERM),
    ("clone", (17 | PARENT,), EPERM),
    ("socket", (1, 1, 0), ALLOW),
    ("socket", (2, 2 | 0o2004000, 17), ALLOW),
    ("socket", (10, 1, 6), ALLOW),
    ("socket", (40, 1, 0), EPERM),
    ("socket", (2, 3, 0), EPERM),
    ("socket", (2, 1, 262), EPERM),
    ("socket", (2, 5, 0), EPERM),
    ("socketpair", (1, 1, 0), ALLOW),
    ("socketpair", (30, 1, 0), EPERM),
]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(("name", "args", "expected"), ARGUMENTS)
def test_arguments_are_checked(modules, machine, name, args, expected):
    calls, seccomp = modules["calls"], modules["seccomp"]
    architecture, column = seccomp.MACHINES[machine]
    listed = calls.ALLOWED + calls.WITH_NAMESPACES
    number = {call[0]: call[column] for call in listed}[name]
    assert outcome(seccomp.program(machine, listed), architecture, number, args) == expected


EVERY_NUMBER = """
import ctypes, json
libc = ctypes.CDLL(None, use_errno=True)
said = {{}}
for number in (*range(700), 0x40000000, 0x40000000 + 157, 2**31):
    if number not in {allowed}:
        value = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
        if (value, ctypes.get_errno()) != (-1, 1 if number < 424 else 38):
            said[number] = (value, ctypes.get_errno())
print(json.dumps(said))
def f(x):
    return x + 1
"""


@pytest.mark.parametrize("level", ["namespaces", "seccomp"])
def test_every_other_call_is_refused_by_the_kernel(modules, level, monkeypatch):
    refused = sandbox._refusal(level)
    if refused is not None:
        pytest.skip(f"no {level} on this machine: {refused}")
    monkeypatch.setattr(sandbox, "level", lambda allow_weak=False: level)
    calls = modules["calls"]
    listed = calls.ALLOWED + (calls.WITH_NAMESPACES if level == "namespaces" else ())
    _, column = modules["seccomp"].MACHINES[modules["seccomp"].os.uname().machine]
    # uretprobe and uprobe end any process that a probe of the kernel did not send there.
    skipped = {335, 336} if column == 1 else set()
    code = EVERY_NUMBER.format(allowed={call[column] for call in listed} | skipped)
    verdict = sandbox.check(Program(code, TESTS, ("f",)), LOW)
    assert verdict.passed and json.loads(verdict.output) == {}, verdict


# What programs without ill will do, with the calls that it takes; those of the second need
# processes, threads and sockets, and the attributes of files.
HONEST = {
    "files": "import os\nopen('x', 'w').write('y')\nos.rename('x', 'z')\nprint(open('z').read())\n"
    "os.remove('z')\nassert os.listdir() == []\nassert not os.isatty(1)",
    "a temporary file": "import tempfile\nwith tempfile.TemporaryFile() as t:\n    t.write(b'x')\n"
    "with tempfile.NamedTemporaryFile() as t:\n    t.write(b'x')\n"
    "with tempfile.TemporaryDirectory() as d:\n    open(d + '/x', 'w').close()",
    "a database": "import sqlite3\nwith sqlite3.connect('x') as c:\n    c.execute('create table t"
    " (x)')\n    c.execute('insert into t values (1)')\nprint(c.execute('select * from t').fetchall())",
    "time": "import time, signal, datetime\ntime.sleep(0.01)\nprint(datetime.datetime.now())\n"
    "signal.signal(signal.SIGALRM, lambda *a: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\n"
    "signal.pause()",
    "chance": "import random, secrets, uuid\nprint(random.random(), secrets.token_hex(), uuid.uuid4())",
    "limits": "import resource, sys\nprint(resource.getrlimit(resource.RLIMIT_AS))\n"
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nresource.getrusage(resource.RUSAGE_SELF)",
    "the machine": "import os, platform\nprint(os.cpu_count(), platform.platform(), os.getpid(),"
    " os.get_terminal_size if 0 else os.getcwd(), os.path.getsize(os.__file__))",
}
HONEST_WITH_NAMESPACES = {
    "threads": "import threading\nfrom concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor(2) as pool:\n    assert list(pool.map(abs, [-1, -2])) == [1, 2]",
    "coroutines": "import asyncio\nasync def g():\n    await asyncio.sleep(0)\n    return 1\n"
    "assert asyncio.run(g()) == 1",
    "a process": "import os\npid = os.fork()\nif pid == 0:\n    os._exit(3)\n"
    "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3",
    "a pool": "import multiprocessing as m\nends = m.get_context('fork').Pipe()\n"
    "p = m.get_context('fork').Process(target=ends[1].send, args=(5,))\np.start()\np.join()\n"
    "assert ends[0].recv() == 5",
    "a server": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('x')\ns.listen()\n"
    "c = socket.socket(socket.AF_UNIX)\nc.connect('x')\nc.sendall(b'y')\n"
    "assert s.accept()[0].recv(1) == b'y'",
    "copies of files": "import os, shutil\nopen('x', 'w').write('y')\nshutil.copy2('x', 'z')\n"
    "os.chmod('z', 0o600)\nshutil.copytree('.', 'w')\nshutil.rmtree('w')",
    "a signal to itself": "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *a: None)\n"
    "signal.raise_signal(signal.SIGUSR1)\nos.kill(os.getpid(), signal.SIGUSR1)",
}


@pytest.mark.parametrize("level", ["namespaces", "seccomp"])
def test_what_honest_programs_do_stays_possible(level, monkeypatch):
    refused = sandbox._refusal(level)
    if refused is not None:
        pytest.skip(f"no {level} on this machine: {refused}")
    monkeypatch.setattr(sandbox, "level", lambda allow_weak=False: level)
    honest = HONEST | (HONEST_WITH_NAMESPACES if level == "namespaces" else {})
    # One after another in one process: each starts in the empty folder that the last one left.
    code = "import os\n"
    for number, name in enumerate(honest):
        body = "\n".join("    " + line for line in honest[name].splitlines())
        code += (
            f"os.mkdir('{number}')\nos.chdir('{number}')\ntry:\n{body}\n    print('did {name}')\n"
        )
        code += f"except Exception as e:\n    print('not {name}', repr(e))\nos.chdir('..')\n"
    verdict = sandbox.check(Program(code + "def f(x):\n    return x + 1", TESTS, ("f",)))
    assert verdict.passed, verdict
    not_possible = [line for line in verdict.output.splitlines() if line.startswith("not ")]
    assert not_possible == [] and verdict.output.count("did ") == len(honest), verdict
