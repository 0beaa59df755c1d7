"""Peak memory is of this process alone."""

import os
import subprocess
import sys

import jax
import numpy as np

from lfl_jax.io.memory import peak_memory_bytes


def test_peak_memory_is_of_this_process() -> None:
    before = peak_memory_bytes()
    block = np.ones(256 << 20, np.uint8)
    after = peak_memory_bytes()
    assert block.sum() and after.host >= before.host
    assert after.host >= block.nbytes
    if jax.default_backend() == "cpu":
        assert after.device is None
    del block
    script = "from lfl_jax.io.memory import peak_memory_bytes; print(peak_memory_bytes().host)"
    child = int(subprocess.check_output([sys.executable, "-c", script], env=os.environ))
    assert 20 << 20 < child < after.host
