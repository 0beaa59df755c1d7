"""Metrics: strict lines, every step once after a resume, TensorBoard that may fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax.core.files import read_jsonl
from lfl_jax.errors import UserError
from lfl_jax.io.metrics import MetricsWriter


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


def test_only_process_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_lines_are_written_at_once(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(1, {"loss": 1.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 1.0
    writer.close()


def test_torch_is_not_imported_for_tensorboard(tmp_path: Path) -> None:
    """tensorboardX imports it where it is there, which takes as long as the rest of a start."""
    there = tmp_path / "torch" / "__init__.py"
    there.parent.mkdir()
    there.write_text("raise SystemExit('torch was imported')")
    code = (
        "from lfl_jax.io.metrics import MetricsWriter\n"
        f"with MetricsWriter({str(tmp_path / 'run')!r}) as writer: writer.write(1, {{'loss': 2}})\n"
        "try: import torch\n"
        "except SystemExit: print('there again')"
    )
    (tmp_path / "run").mkdir()
    command, path = [sys.executable, "-c", code], {"PYTHONPATH": str(tmp_path)}
    child = subprocess.run(
        command, env=os.environ | path, check=True, capture_output=True, text=True
    )
    assert child.stdout == "there again\n"
    assert board(tmp_path / "run") == {"loss": [(1, 2.0)]}
