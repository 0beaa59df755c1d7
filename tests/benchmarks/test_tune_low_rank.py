"""benchmarks/tune_low_rank.py: what it writes is what the selection table reads, a rehearsal
excepted."""

import argparse
import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from lfl_jax import quant
from lfl_jax.errors import UserError
from lfl_jax.kernels.low_rank import selection
from lfl_jax.kernels.low_rank.pallas_tpu import PallasTPU
from lfl_jax.kernels.low_rank.reference import XLA

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tune(monkeypatch):
    """The script, its times given: the second tile is the best, the third fails, a kernel over nf4
    does not pay."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tune = importlib.import_module("tune_low_rank")
    seen = []

    def measure(implementation, direction, given, rounds):
        if isinstance(implementation, XLA):
            seen.clear()
            return 1.0
        seen.append(implementation.tiles)
        if len(seen) == 3:
            raise ValueError("no such layout")
        return (0.99, 0.5, None, 0.6)[len(seen) - 1] * (
            2 if isinstance(given[1][0], quant.NF4) else 1
        )

    monkeypatch.setattr(tune, "measure", measure)
    return tune


def options(tmp_path, **others):
    given = {
        "out": tmp_path / "out.json",
        "table": tmp_path / "table.json",
        "rehearse": True,
        "seconds": 100.0,
    }
    given |= {
        "formats": ["nf4", "dense"],
        "weights": ["256x384"],
        "rows": [40],
        "ranks": [4],
        "rounds": 1,
        "tried": 4,
    }
    return argparse.Namespace(**given | others)


def test_the_fastest_tiles_of_what_pays_become_entries(tune, tmp_path, monkeypatch):
    tune.run(options(tmp_path))
    text = (tmp_path / "table.json").read_text()
    with pytest.raises(UserError, match="rehearses a kernel on a CPU"):
        selection.read(text)
    entries = selection.read(text.replace('"device": "cpu"', '"device": "TPU v5 lite"'))
    assert [(e.format, e.direction, e.seconds) for e in entries] == [
        ("dense", d, 0.5) for d in ("backward", "forward")
    ]
    w = jnp.zeros((256, 384), jnp.bfloat16)
    forward, backward = selection.choose(w, 40, 4, device="TPU v5 lite", table=entries)
    assert (
        isinstance(forward, PallasTPU)
        and isinstance(backward, PallasTPU)
        and forward.tiles != backward.tiles
    )
    assert selection.choose(quant.nf4.quantise(w), 40, 4, device="TPU v5 lite", table=entries) == (
        XLA(),
        XLA(),
    )
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["rehearsed"] and found["left_out"] == 0
    best = found["found"][2]
    assert (
        best["format"] == "dense" and min(best["kernel_s"].values()) == 0.5 and best["xla_s"] == 1.0
    )
    assert list(best["errors"].values()) == ["ValueError: no such layout"]


def test_it_ends_in_time_and_keeps_what_it_has(tune, tmp_path, monkeypatch):
    times = iter((0.0, 1.0, 2.0, 200.0))
    monkeypatch.setattr(tune.time, "monotonic", lambda: next(times))
    tune.run(options(tmp_path))
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["left_out"] == 2 and len(found["found"]) == 2


def test_a_table_keeps_what_was_not_measured_anew(tune, tmp_path):
    tune.run(options(tmp_path))
    text = (tmp_path / "table.json").read_text().replace('"device": "cpu"', '"device": "TPU v4"')
    old = selection.read(text)
    new = [dataclasses.replace(old[0], seconds=0.1)]
    assert set(selection.read(tune.table(old, new))) == {old[1], *new}
    slower = [dataclasses.replace(old[0], seconds=2.0)]
    assert selection.read(tune.table(old, slower)) == (old[1],)


@pytest.mark.slow
def test_a_rehearsal_runs_to_its_end(tmp_path):
    out, table = tmp_path / "out.json", tmp_path / "table.json"
    command = [
        sys.executable,
        ROOT / "benchmarks/tune_low_rank.py",
        "--rehearse",
        f"--out={out}",
        f"--table={table}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["rehearsed"] and len(found["found"]) == 6
    assert all(
        case["xla_s"] > 0 and case["kernel_s"] and not case["errors"] for case in found["found"]
    )
    assert table.exists()
