"""Sharded steps, in a process of their own, because the number of devices is fixed when jax starts."""

import subprocess
import sys
from pathlib import Path


def test_a_step_on_eight_devices_is_the_step_on_one():
    script = Path(__file__).with_name("check_meshes.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("sharded") == 4


def test_kernels_on_shards_are_the_kernels_on_one_device():
    script = Path(__file__).with_name("check_kernels.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(": equal") == 10
