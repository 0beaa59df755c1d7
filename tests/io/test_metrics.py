"""Metrics: strict lines, every step once after a resume, progress on and off a terminal, peak
memory."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax.core.files import read_jsonl
from lfl_jax.errors import UserError
from lfl_jax.io import metrics
from lfl_jax.io.metrics import MetricsWriter, peak_memory_bytes, progress


def lines(directory: Path) -> list[dict]:
    return read_jsonl(directory / "metrics.jsonl")


def board(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show, by tag; a purge hides the earlier steps from its own on."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    shown: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(
        (directory / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns
    ):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.session_log.status == event.session_log.START:
                shown = {
                    tag: [x for x in values if x[0] < event.step] for tag, values in shown.items()
                }
            for value in event.summary.value:
                shown.setdefault(value.tag, []).append((event.step, value.simple_value))
    return shown


def test_one_strict_line_a_call(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(
            1, {"loss": jnp.float32(2.5), "tokens": np.int64(7), "norm": float("inf"), "b": np.nan}
        )
        writer.write(1, {"eval/nll": 0.25})
        first, second = lines(tmp_path)
    assert first.pop("time") > 1e9
    expected = {"step": 1, "loss": 2.5, "tokens": 7.0, "norm": None, "b": None}
    assert first == expected | {"nonfinite": {"norm": "inf", "b": "nan"}}
    assert (second["step"], second["eval/nll"]) == (1, 0.25)
    assert "nonfinite" not in second
    assert not (tmp_path / "tensorboard").exists()


def test_after_a_resume_every_step_is_there_once(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 8):
            writer.write(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    with MetricsWriter(tmp_path, resume_step=4) as writer:
        assert [record["step"] for record in lines(tmp_path)] == [1, 2, 3, 4]
        for step in range(5, 9):
            writer.write(step, {"loss": 10.0 * step})
    expected = [(step, step if step <= 4 else 10.0 * step) for step in range(1, 9)]
    assert [(record["step"], record["loss"]) for record in lines(tmp_path)] == expected
    assert board(tmp_path) == {"loss": expected}
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "tensorboard"]


def test_without_a_resume_the_file_starts_anew(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with MetricsWriter(tmp_path) as writer:
            writer.write(0, {"loss": value})
    assert [record["loss"] for record in lines(tmp_path)] == [2.0]
    assert board(tmp_path) == {"loss": [(0, 2.0)]}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_ends_tensorboard_but_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MetricsWriter(tmp_path) as writer:
        (event_file,) = (tmp_path / "tensorboard").iterdir()
        writer._board._file._writer.close()
        writer._board._file._writer = Path("/dev/full").open("wb")  # noqa: SIM115 (the writer closes it)
        for step in range(1, 400):
            writer.write(step, {"loss": step, "rate": step})
    assert len(lines(tmp_path)) == 399 and event_file.exists()
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "TensorBoard gets no more of this run"
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        UserError, match="cannot write .*metrics.jsonl: No space left on device; make room"
    ):
        writer.write(1, {"loss": 1.0})


def test_a_broken_line_is_refused_and_the_file_kept(tmp_path: Path) -> None:
    text = '{"step": 1}\nbroken\n{"step": 3}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl:2 is not JSON"):
        MetricsWriter(tmp_path, resume_step=3)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_only_process_0_writes_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
    out = io.StringIO()
    with progress(1, "train", file=out) as advance:
        advance(1, loss=1.0)
    assert not list(tmp_path.iterdir())
    assert out.getvalue() == ""


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(metrics.time, "monotonic", lambda: self.now)


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
    assert metrics._clock(seconds) == text


BAR = """
import time
from lfl_jax.io.metrics import progress
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


def test_peak_memory_is_of_this_process() -> None:
    before = peak_memory_bytes()
    block = np.ones(256 << 20, np.uint8)
    after = peak_memory_bytes()
    assert block.sum() and after.host >= before.host
    assert after.host >= block.nbytes
    if jax.default_backend() == "cpu":
        assert after.device is None
    del block
    script = "from lfl_jax.io.metrics import peak_memory_bytes; print(peak_memory_bytes().host)"
    child = int(subprocess.check_output([sys.executable, "-c", script], env=os.environ))
    assert 20 << 20 < child < after.host


def test_lines_are_written_at_once(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(1, {"loss": 1.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 1.0
    writer.close()
