"""Adapters of a rank that the devices do not divide, on 8 CPU devices in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow  # 20 s of CPU: python -m pytest -m slow tests/planning/test_small_ranks.py
def test_a_step_with_sharded_factors_is_the_step_on_one_device():
    script = Path(__file__).with_name("check_small_ranks.py")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "stored whole: []" in run.stdout
