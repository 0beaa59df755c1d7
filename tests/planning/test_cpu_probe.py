"""This machine's peaks, and what is predicted from them."""

import json

import pytest

from lfl_jax import plan as command
from lfl_jax.config import command_line
from lfl_jax.errors import UserError
from lfl_jax.planning import cpu_probe, weak_scaling

ARGV = ["plan", "--config=configs/math_ift.py:smoke,lora,r=4", "--topology=cpu:1"]


def test_the_figures_are_written_once_and_read_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cpu_probe, "SECONDS", 0.05)
    file = tmp_path / "peaks.json"
    command.main([*ARGV, f"--peaks={file}", "--json"])
    first = json.loads(capsys.readouterr().out)
    measured = json.loads(file.read_text())
    assert measured["float32"] > 1e8 and measured["narrow"] > 1e7 and measured["hbm_rate"] > 1e7
    assert first["fits"] and 0 < first["step_seconds"]["fast"] < first["step_seconds"]["slow"]

    monkeypatch.setattr(cpu_probe, "measure", None)
    command.main([*ARGV, f"--peaks={file}", "--json"])
    assert json.loads(capsys.readouterr().out)["step_seconds"] == first["step_seconds"]
    # a machine that is twice as fast takes half as long
    rates = ("float32", "bf16", "narrow", "hbm_rate")
    file.write_text(json.dumps(measured | {name: 2 * measured[name] for name in rates}))
    command.main([*ARGV, f"--peaks={file}", "--json"])
    faster = json.loads(capsys.readouterr().out)["step_seconds"]
    assert faster["slow"] == pytest.approx(first["step_seconds"]["slow"] / 2)


def test_a_file_without_figures_is_refused(tmp_path):
    file = tmp_path / "peaks.json"
    file.write_text('{"speed": 1}')
    config = command_line.parse(ARGV[:2], "", {})[0]
    with pytest.raises(UserError, match="expected peaks of a CPU"):
        cpu_probe.read_or_measure(str(file), config)


def test_weak_scaling_keeps_the_work_and_shares_the_weights():
    few, many = (weak_scaling.row("paper", name) for name in ("v5p:2x2x4", "v5p:16x16x16"))
    assert (few.chips, many.chips, many.mesh.devices) == (16, 4096, 4096)
    assert many.stored < few.stored / 8 and many.adapter < few.adapter / 8
    # the weights that a device gathers are all of them, wherever they are
    assert few.received == pytest.approx(many.received, rel=0.1)
    assert 0 < many.apart < many.overlapped <= 1
