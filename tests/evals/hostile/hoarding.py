"""Programs that fill the disk in ways that a limit of each file misses, or stay for longer than they
may.

Without namespaces the folder is watched: what is over the limit ends the program ("disk").
"""

from evals.hostile.wrong import WRONG

FULL = "disk|exception: OSError .*(No space|too large|Too many)|assertion|timeout|exception"
FILL = "def fill(name):\n    with open(name, 'wb', buffering=0) as file:\n        "
BLOCKS = FILL + "for _ in range(3):\n            file.write(bytes(10**6))\n"
FORK = "import os, time\ntry:\n    pid = os.fork()\nexcept OSError:\n    pid = 1\n"

DISK = {
    "files that are large together": (
        BLOCKS + "for i in range(10**4):\n    fill(str(i))" + WRONG,
        "disk|exception: OSError .*No space",
        "",
    ),
    "small files without end": (
        "import itertools\nfor i in itertools.count():\n    open(str(i), 'w').close()" + WRONG,
        "disk|exception: OSError .*No space",
        "",
    ),
    "folders without end": (
        "import itertools, os\nfor i in itertools.count():\n    os.mkdir(str(i))" + WRONG,
        "disk|exception: OSError .*No space",
        "",
    ),
    "links without end": (
        "import itertools, os\nfor i in itertools.count():\n    os.symlink('x' * 200, str(i))",
        "disk|exception: OSError .*No space",
        "",
    ),
    "removed files that stay open": (
        BLOCKS + "import os, time\nkept = []\nfor i in range(20):\n    fill('x')\n"
        "    kept.append(open('x'))\n    os.remove('x')\ntime.sleep(0.3)\nprint('done')" + WRONG,
        "disk|exception: OSError .*No space",
        "",
    ),
    "removed files that stay mapped": (
        BLOCKS + "import mmap, os, time\nkept = []\nfor i in range(20):\n    fill('x')\n"
        "    with open('x', 'r+b') as file:\n        kept.append(mmap.mmap(file.fileno(), 4096))\n"
        "    os.remove('x')\ntime.sleep(0.3)\nprint('done')" + WRONG,
        "disk|exception: OSError .*No space",
        "",
    ),
    "files without a name": (
        "import os, time\nkept = []\nfor i in range(20):\n    fd = os.open('.', os.O_TMPFILE |"
        " os.O_RDWR)\n    for _ in range(3):\n        os.write(fd, bytes(10**6))\n"
        "    kept.append(fd)\ntime.sleep(0.3)\nprint('done')" + WRONG,
        "disk|exception: OSError .*No space",
        "",
    ),
    "files full of holes": (
        "import time\nfor i in range(100):\n    with open(str(i), 'wb') as file:\n"
        "        file.truncate(3 * 10**6)\ntime.sleep(0.3)\nprint('done')" + WRONG,
        "disk|assertion",  # a file system in memory does not count holes, which occupy nothing
        "",
    ),
    "holes filled through memory": (
        "import mmap, time\nfor i in range(100):\n    with open(str(i), 'w+b') as file:\n"
        "        file.truncate(3 * 10**6)\n        m = mmap.mmap(file.fileno(), 0)\n"
        "        m[:] = b'x' * len(m)\n        m.close()\ntime.sleep(0.3)" + WRONG,
        "disk|killed by signal 7",
        "",
    ),
    "a folder that nobody can read": (
        BLOCKS + "import os, time\nos.mkdir('x', 0o300)\nos.chdir('x')\nfor i in range(20):\n"
        "    fill(str(i))\ntime.sleep(0.3)\nprint('done')" + WRONG,
        "disk|exception: OSError .*No space",
        "",
    ),
    "names as long as they can be": (
        "import os\ntry:\n    for i in range(900):\n        os.mkdir('d' * 255)\n        os.chdir("
        "'d' * 255)\nexcept OSError:\n    pass\nprint('deep')" + WRONG,
        "disk|assertion",
        "",
    ),
    "a file that moves": (
        BLOCKS + "import os, time\nos.mkdir('a')\nos.mkdir('b')\nfor i in range(20):\n"
        "    fill(f'a/{{i}}')\nend = time.time() + 0.5\nwhile time.time() < end:\n"
        "    for one, other in ('ab', 'ba'):\n        for i in range(20):\n"
        "            os.rename(f'{{one}}/{{i}}', f'{{other}}/{{i}}')\nprint('done')" + WRONG,
        "disk|exception: OSError .*No space",
        "",
    ),
    "a folder that is a link in between": (
        BLOCKS
        + "import os, time\nos.mkdir('a')\nend = time.time() + 0.5\nwhile time.time() < end:\n"
        "    os.rename('a', 'b')\n    os.symlink('/', 'a')\n    os.remove('a')\n    os.rename('b',"
        " 'a')\nprint('done')" + WRONG,
        "disk|assertion",
        "",
    ),
    "blocks beyond a file's end": (
        "import ctypes, time\nlibc = ctypes.CDLL(None)\nfile = open('x', 'wb')\nprint('got',"
        " libc.fallocate(file.fileno(), 1, ctypes.c_long(0), ctypes.c_long(10**9)))\n"
        "time.sleep(0.1)" + WRONG,
        "assertion",
        "got -1",
    ),
    "a removed folder": (
        "import os\nos.mkdir('x')\nos.chdir('x')\nos.rmdir('../x')\nopen('y', 'w')",
        "exception: FileNotFoundError",
        "",
    ),
    "its own folder removed": (
        "import os\nos.rmdir(os.getcwd())\nprint('removed')" + WRONG,
        "exception|assertion",
        "",
    ),
}
STAYING = {
    "a child that clears its death signal": (
        FORK + "import ctypes\nctypes.CDLL(None).prctl(1, 0)\nif pid == 0:\n    time.sleep(600)\n"
        "print('cleared')" + WRONG,
        "assertion",
        "cleared",
    ),
    "the death signal cleared, asleep": (
        "import ctypes, time\nctypes.CDLL(None).prctl(1, 0)\ntime.sleep(600)",
        "timeout",
        "",
    ),
    "the death signal cleared, and a reply": (
        "import ctypes, time, wire\nctypes.CDLL(None).prctl(1, 0)\nwire.write(4, b'vN')\n"
        "time.sleep(600)",
        "timeout",
        "",
    ),
    "a child that holds the pipes": (
        FORK + "if pid == 0:\n    time.sleep(600)\nos._exit(0)",
        "exited early: code 0",
        "",
    ),
    "a child that closes everything": (
        FORK + "if pid == 0:\n    os.closerange(0, 99)\n    time.sleep(600)" + WRONG,
        "assertion",
        "",
    ),
    "a child of a child, many times": (
        FORK + "for i in range(99):\n    if pid == 0:\n        try:\n            pid = os.fork()\n"
        "        except OSError:\n            time.sleep(600)\n        if pid:\n"
        "            os._exit(0)" + WRONG,
        "assertion",
        "",
    ),
    "a child that stops itself": (
        FORK + "if pid == 0:\n    os.kill(os.getpid(), 19)" + WRONG,
        "assertion",
        "",
    ),
    "a child that answers": (
        FORK + "if pid:\n    os._exit(0)" + WRONG,
        "exited early: code 0|assertion",
        "",
    ),
    "a sibling": (
        "import ctypes, os, time\npid = ctypes.CDLL(None).syscall(56, 0x8011, 0, 0, 0, 0)\n"
        "if pid == 0:\n    time.sleep(600)\nprint('got', pid)" + WRONG,
        "assertion",
        "got -1",
    ),
    "a thread that stays": (
        "import threading, time\ntry:\n    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "except RuntimeError:\n    pass" + WRONG,
        "assertion",
        "",
    ),
    "waiting for itself": ("import os\nos.read(os.pipe()[0], 1)", "timeout", ""),
    "a lock taken twice": (
        "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
        "timeout",
        "",
    ),
    "waiting for a signal": ("import signal\nsignal.pause()", "timeout", ""),
    "waiting for everything": ("import select\nselect.select([], [], [])", "timeout", ""),
    "its limit of time ignored": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\ntry:\n    import resource\n"
        "    resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\nexcept (ValueError, OSError):\n"
        "    pass\nwhile True:\n    pass",
        "timeout|killed by signal 9",
        "",
    ),
    "all processes busy": (
        "import os\nfor i in range(20):\n    try:\n        os.fork()\n    except OSError:\n"
        "        pass\nwhile True:\n    pass",
        "timeout|killed by signal 9",
        "",
    ),
    "a subprocess": (
        "import subprocess\nsubprocess.Popen(['sleep', '600'])",
        "exception: (PermissionError|FileNotFoundError)",
        "",
    ),
}
HOARDING = DISK | STAYING
