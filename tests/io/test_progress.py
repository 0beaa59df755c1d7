"""Progress: a bar on a terminal, plain lines elsewhere, nothing on other processes."""

import io
import os
import pty
import re
import subprocess
import sys

import jax
import pytest

from lfl_jax.io import progress as progress_module
from lfl_jax.io.progress import progress


def test_only_process_0_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    out = io.StringIO()
    with progress(1, "train", file=out) as advance:
        advance(1, loss=1.0)
    assert out.getvalue() == ""


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: self.now)


def test_plain_lines_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(monkeypatch), io.StringIO()
    with progress(6, "train", file=out) as advance:
        clock.now += 60  # compiles
        for step in range(6):
            clock.now += 4
            advance(1, loss=2.34567 - step, tokens_per_s=1234.5, note="warm")
    assert out.getvalue().splitlines() == [
        "train 1/6 loss 2.346  tokens/s 1,234  note warm ETA -:--",
        "train 4/6 loss -0.6543  tokens/s 1,234  note warm ETA 0:08",
        "train 6/6 loss -2.654  tokens/s 1,234  note warm took 1:24",
    ]


def test_plain_eta_after_a_resume_counts_this_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(monkeypatch), io.StringIO()
    with progress(1000, "HellaSwag", done=900, file=out) as advance:
        for _ in range(2):
            clock.now += 100
            advance(10)
    assert out.getvalue().splitlines()[-1] == "HellaSwag 920/1000 ETA 13:20"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599.9, "1:00:00"), (7385.0, "2:03:05")]
)
def test_clock(seconds: float, text: str) -> None:
    assert progress_module._clock(seconds) == text


BAR = """
import time
from lfl_jax.io.progress import progress
with progress(3, "train") as advance:
    for step in range(3):
        advance(1, loss=1.5, tokens_per_s=2500.0)
        with progress(2, "HellaSwag") as inner:
            inner(2)
        time.sleep(0.02)
"""


def on_a_terminal(script: str, term: str) -> str:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script], stderr=theirs, env=environment
    )
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 4096):
            text += part
    except OSError:  # Linux says end of file on a terminal so
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return text.decode()


def test_a_bar_on_a_terminal_and_another_inside_it() -> None:
    text = on_a_terminal(BAR, "xterm")
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(r"train ━+ 3/3 loss 1\.5  tokens/s 2,500 0:00:0\d ETA", bare)
    assert re.search(r"HellaSwag ━+ 2/2", bare)
    assert "\x1b[" in text


def test_plain_lines_on_a_dumb_terminal() -> None:
    text = on_a_terminal(BAR, "dumb")
    assert "\x1b[" not in text
    assert "train 3/3 loss 1.5  tokens/s 2,500 took 0:00" in text
