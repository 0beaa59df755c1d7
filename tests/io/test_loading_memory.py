"""Host memory that loading a model takes beside its parameters, in a process of its own.

The figures are printed (-s). What there is beside: a tensor (the largest is the embedding) as it is
read, and as it goes to the device.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def measure(kind, preset, shard_gb, tmp_path):
    script = Path(__file__).with_name("loading_memory.py")
    command = [sys.executable, script, kind, preset, tmp_path / "zeros", str(shard_gb)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    print(done.stdout)
    return json.loads(done.stdout)


def check_hf(figures):
    beside = figures["peak_without_parameters_bytes"]
    assert beside <= figures["largest_file_bytes"] + 1e9
    assert beside - figures["before_loading_bytes"] <= 0.5e9


def check_gguf(figures):
    """A dequantised tensor is float32, twice as large as the bfloat16 of safetensors."""
    extra = figures["peak_without_parameters_bytes"] - figures["before_loading_bytes"]
    assert extra <= 1.5 * 4 * figures["largest_tensor"] + 0.2e9


def require_memory(n_bytes):
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < n_bytes:
        pytest.skip("the parameters alone take 13.5 GB of memory")


@pytest.mark.slow
def test_a_folder_of_a_billion_parameters_loads_tensor_by_tensor(tmp_path):
    check_hf(measure("hf", "tinyllama-1b", 0.5, tmp_path))


@pytest.mark.slow
def test_a_gguf_file_of_a_billion_parameters_loads_tensor_by_tensor(tmp_path):
    check_gguf(measure("gguf", "tinyllama-1b", 0.5, tmp_path))


@pytest.mark.slow
def test_a_folder_of_seven_billion_parameters_loads_tensor_by_tensor(tmp_path):
    require_memory(18e9)
    check_hf(measure("hf", "llama2-7b", 5, tmp_path))


@pytest.mark.slow
def test_a_gguf_file_of_seven_billion_parameters_loads_tensor_by_tensor(tmp_path):
    require_memory(18e9)
    check_gguf(measure("gguf", "llama2-7b", 5, tmp_path))
