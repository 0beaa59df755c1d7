"""What loading a checkpoint takes beside its parameters, in a process of its own; the figures are
printed (-s)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def measure(preset, shard_gb, tmp_path):
    script = Path(__file__).with_name("loading_memory.py")
    command = [sys.executable, script, preset, tmp_path / "zeros", str(shard_gb)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    print(done.stdout)
    return json.loads(done.stdout)


def check(found):
    assert found["peak_without_parameters_bytes"] <= found["largest_shard_bytes"] + 1e9
    # What there is beside: a tensor (the largest is the embedding) as it is read, and as it goes to
    # the device.
    assert found["peak_without_parameters_bytes"] - found["before_loading_bytes"] <= 0.5e9


@pytest.mark.slow
def test_a_checkpoint_of_a_billion_parameters_loads_tensor_by_tensor(tmp_path):
    check(measure("tinyllama-1b", 0.5, tmp_path))


@pytest.mark.slow
def test_a_checkpoint_of_seven_billion_parameters_loads_tensor_by_tensor(tmp_path):
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 18e9:
        pytest.skip("the parameters alone take 13.5 GB of memory")
    check(measure("llama2-7b", 5, tmp_path))
