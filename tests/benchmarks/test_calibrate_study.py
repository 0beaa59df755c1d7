"""benchmarks/calibrate_study.py: arms are simulated with their own variances, and drawn."""

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from lfl_jax.configs.studies import smoke

from lfl_jax.errors import UserError
from lfl_jax.statistics.calibration import assumed, simulate
from lfl_jax.statistics.frontier import Arm, Axis
from lfl_jax.studies import points
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.runs import Cell

ROOT = Path(__file__).parents[2]
FEW = argparse.Namespace(studies=12, power_studies=4)


@pytest.fixture
def script(monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("calibrate_study")


def test_rates_of_each_arm_and_a_figure(script, tmp_path):
    first, second = simulate(assumed(items=64), 0.0, np.random.default_rng(0))
    arms = {"lora": script._calibrated(first, second, 0.05, FEW)}
    # An arm without a frontier is said and leaves the other's result.
    single = Arm("full", Axis(first.x.values[:, :1]), Axis(first.y.values[:, :1]))
    arms["full"] = script._calibrated(single, second, 0.05, FEW)
    assert "the frontier has 1 cell of 1" in arms["full"]["reason"]
    script._draw(arms, 0.05, tmp_path)
    assert (tmp_path / "calibration.svg").stat().st_size > 1000

    lora = json.loads(json.dumps(arms["lora"]))
    assert lora["same"]["studies"] == 12 and len(lora["power"]) == len(script.WIDTHS)
    assert lora["power"][-1]["more"] > lora["same"]["more"]
    assert lora["design"]["forgetting"]["items"] == 64


def test_scaled_cells_are_not_simulated(script):
    arm, _ = simulate(assumed(seeds=2, items=8), 0.0, np.random.default_rng(0))
    cells = tuple(Cell(1e-3, 10, points.scale(factor)) for factor in (1.0, 0.5, 1.0, 0.5, 0.5))
    chosen = script._trained(Grid(arm, None, cells, (0, 1), ()))
    np.testing.assert_array_equal(chosen.y.values, arm.y.values[:, [0, 2]])


def test_a_study_without_runs_is_refused(script, tmp_path):
    options = [f"--config={smoke.__file__}", f"--workdir={tmp_path}", f"--out={tmp_path}"]
    with pytest.raises(UserError, match="no run has finished"):
        script.main(["", *options])
