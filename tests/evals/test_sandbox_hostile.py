"""The sandbox against programs that harm the machine or pass without solving anything (hostile/).

Each cell is a level and a user, and runs its programs in a process of its own (`hostile.attack`).
"""

import ctypes
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from evals.hostile.attack import LOW, NOBODY, SUBREAPER, children
from evals.hostile.programs import NEW, PROGRAMS

import lfl_jax

ROOT, TESTS_FOLDER = Path(lfl_jax.__file__).parents[1], Path(__file__).parents[1]
ATTACK = Path(__file__).with_name("hostile") / "attack.py"
# What the weaker level does otherwise: processes and threads cannot be started, signals not be
# sent, even to oneself; the folder is watched.
OTHERWISE = {
    "a crash through faulthandler": "exception: NameError|killed by signal",
    "an exit through faulthandler": "exception: RuntimeError",
    "stopping itself": "exception: PermissionError",
    "a daemon": "exception: PermissionError",
    "a daemon whose parent exits": "exception: PermissionError",
    "an abort": "killed by signal",
    "a large file": "exception: OSError .*too large|disk",
    "many large files": "disk",
    "many files": "disk",
    "folders nested deeply, left behind": "disk|assertion",
    "fork bomb": "timeout",
    "killing its group": "exception: PermissionError",
    "a child in a session of its own": "exception: PermissionError",
    "prctl": "exception: PermissionError",
}
# A sixth of the programs at each level, and of those that last until a limit one.
LASTING = [name for name in PROGRAMS if "timeout" in PROGRAMS[name][1]]
QUICK = [name for name in PROGRAMS if name not in LASTING]
EVERY = list(PROGRAMS)
CELLS = {
    "some, namespaces": ("namespaces", "as it is", [*QUICK[::6], LASTING[0]]),
    "some, weak": ("seccomp", "as it is", [*QUICK[3::6], LASTING[1]]),
    "namespaces": ("namespaces", "as it is", EVERY),
    "weak": ("seccomp", "as it is", EVERY),
    "namespaces, nobody": ("namespaces", "nobody", EVERY),
    "weak, nobody": ("seccomp", "nobody", EVERY),
    "weak, root of a container": ("seccomp", "root without CAP_SYS_ADMIN", EVERY),
}


def marked(cell: str) -> object:
    """A cell of all programs takes a minute or two."""
    return pytest.param(cell, marks=[pytest.mark.slow] if CELLS[cell][2] is EVERY else [])


def python_for(user: str) -> str:
    """A Python that the user may start: root's own may be where nobody else may look."""
    if user != "as it is" and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if user != "nobody":
        return sys.executable
    is_new = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3"):
        command = [python, "-I", "-S", "-c", is_new]
        try:
            tried = subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")
        except OSError:
            continue
        if tried.returncode == 0:
            return python
    pytest.skip("no Python that nobody may start")


def run_cell(level: str, user: str, names: list[str]) -> dict:
    """What `hostile.attack` saw."""
    paths = os.pathsep.join(map(str, (TESTS_FOLDER, ROOT)))
    done = subprocess.run(
        [python_for(user), str(ATTACK)],
        input=json.dumps({"level": level, "user": user, "names": names}),
        env={"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def attack():
    """Runs the programs of a cell, once."""
    return cache(lambda cell: run_cell(*CELLS[cell]))


def of_cell(attack: object, cell: str) -> dict:
    seen = attack(cell)
    if seen["refused"] is not None:
        pytest.skip(f"no {CELLS[cell][0]} on this machine: {seen['refused']}")
    return seen


def test_there_are_enough_hostile_programs():
    """As many new ones as there were before, and more."""
    assert len(NEW) >= 107 and len(PROGRAMS) >= 300


@pytest.mark.parametrize("cell", [marked(cell) for cell in CELLS])
def test_hostile_programs_fail_and_for_the_reason_they_should(attack, cell):
    level, _, names = CELLS[cell]
    verdicts = of_cell(attack, cell)["verdicts"]
    assert verdicts.keys() == set(names)
    unexpected = {}
    for name, verdict in verdicts.items():
        _, reason, output = PROGRAMS[name]
        if level == "seccomp" and name in OTHERWISE:
            reason, output = OTHERWISE[name], ""
        as_expected = re.match(reason, verdict["reason"]) and re.search(output, verdict["output"])
        if verdict["passed"] or not as_expected or "CANARY" in str(verdict):
            unexpected[name] = verdict
    assert unexpected == {}


@pytest.mark.parametrize("cell", [marked(cell) for cell in CELLS])
def test_hostile_programs_keep_within_what_is_recorded(attack, cell):
    for name, verdict in of_cell(attack, cell)["verdicts"].items():
        assert len(verdict["output"]) <= LOW.output_kb << 10, name
        assert len(verdict["reason"]) <= 4 * 400 and verdict["reason"].isprintable(), name
        json.dumps(verdict, ensure_ascii=False).encode()  # as the records write it


@pytest.mark.parametrize("cell", [marked(cell) for cell in CELLS])
def test_hostile_programs_leave_no_process_and_no_file_and_reach_nothing_outside(attack, cell):
    seen = of_cell(attack, cell)
    assert (seen["left"], seen["files"], seen["touched"]) == ([], [], False)


def test_root_without_administration_is_refused_at_once_with_the_kernel_s_reason():
    seen = run_cell("namespaces", "root without CAP_SYS_ADMIN", [])
    assert re.search("unshare: Operation not permitted", seen["refused"]) and seen["left"] == []


def test_outside_of_a_sandbox_the_attacks_work(tmp_path):
    """Otherwise their failing says nothing: the same programs in a plain Python reach what they are
    after."""
    canary = tmp_path / "canary"
    canary.write_text("CANARY")
    for name in ("reading a file", "a symbolic link to a file", "leaving the folder by dots"):
        code = PROGRAMS[name][0].format(canary=str(canary), port=0, token="''", kill=0)
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
        )
        assert "CANARY" in done.stdout, name


def test_what_outlives_its_parent_is_noticed():
    """`children` sees an orphan of an orphan, which the tests above say there is none of."""
    had = children()
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(30)\n"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=20)
    left = children() - had
    ctypes.CDLL(None).prctl(SUBREAPER, 0)
    assert len(left) == 1
    os.kill(min(left), 9)
    os.waitpid(min(left), 0)
