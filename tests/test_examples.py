"""The examples do what they say: each is run as its own main, on one small model."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

continual, mixture, routing, task_arithmetic = map(
    importlib.import_module, ("continual", "mixture", "routing", "task_arithmetic")
)


@pytest.mark.slow
def test_skills_add_and_subtract():
    results = task_arithmetic.main()
    assert (
        results["base"]["copy"] < 0.1 and min(results["base"]["caps"], results["base"]["next"]) > 5
    )
    assert results["caps"]["caps"] < 0.1 and results["next"]["next"] < 0.1
    both, alone = results["caps + next"], (results["caps"], results["next"])
    assert both["caps"] < 0.5 * alone[1]["caps"] and both["next"] < 0.5 * alone[0]["next"]
    back = results["caps + next - next"]
    assert all(back[skill] == pytest.approx(results["caps"][skill], abs=1e-3) for skill in back)


@pytest.mark.slow
def test_mixture_weights_are_learned():
    results, weights = mixture.main()
    equal, learned = (sum(results[name].values()) for name in ("weights 1, 1", "learned weights"))
    assert learned < equal and all(0.2 < w < 1.5 and w != 1 for w in weights)


@pytest.mark.slow
def test_each_example_of_a_batch_goes_to_its_adapter():
    results = {(adapter, prompt): answer for adapter, prompt, answer in routing.main()}
    assert results["caps", "caps head"] == "HEAD" and results["next", "next head"] == "afbe"
    assert results["base", "copy head"] == "head" and results["base", "caps head"] != "HEAD"
    assert results["next", "caps head"] != "HEAD" and results["caps", "next head"] != "afbe"


@pytest.mark.slow
def test_a_frozen_first_adapter_is_not_forgotten():
    results, unchanged = continual.main()
    assert unchanged and results["its first"] == results["caps"]
    assert results["caps (frozen) + next"]["next"] < 0.1 and results["caps, then next"]["caps"] > 1


@pytest.mark.slow
def test_a_kind_of_ones_own_trains_through_main(tmp_path):
    command = [
        sys.executable,
        EXAMPLES / "own_method.py",
        "--config=configs/math_ift.py:smoke,lr=1e-2",
    ]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "16,384" in done.stdout  # 2 layers of B's of rank 16, and no A
    again = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0 and "16,384" in again.stdout, "a finished run is read back"
