"""Sharded steps, in a process of their own, because the number of devices is fixed when jax starts."""

import subprocess
import sys
from pathlib import Path

import pytest

MIXTURE = "pissa+vera+mora+loftq+bottleneck"  # over a base in nf4
CASES = [
    ("lora+dora", "2x2x2"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in ((MIXTURE, "2x2x2"), ("none", "2x2x2"), ("none", "1x8x1"), ("lora+dora", "1x8x1"))
    ),
]


@pytest.mark.parametrize(("kind", "mesh"), CASES)
def test_steps_on_eight_devices_are_the_steps_on_one(kind, mesh):
    script = Path(__file__).with_name("check_meshes.py")
    done = subprocess.run([sys.executable, script, kind, mesh], capture_output=True, text=True, timeout=900)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sharded" in done.stdout
