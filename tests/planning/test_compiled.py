"""Compiling for hardware that is not here: what is missing, what does not fit, and a whole step."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from lfl_jax.errors import UserError
from lfl_jax.planning import compiled
from lfl_jax.planning.compiled import Memory, Overflow
from lfl_jax.planning.topology import parse

GIB = 2**30


@pytest.mark.parametrize(
    ("topology", "package", "extra"),
    [("v5e:4x4", "libtpu", "tpu"), ("h100:8", "jax_cuda12_plugin", "cuda12")],
)
def test_a_missing_compiler_is_said_with_what_installs_it(topology, package, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'lfl_jax\[{extra}\]'"):
        compiled.devices(parse(topology))


def test_libtpus_words_for_too_large_are_an_answer():
    early = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
        " temporaries (40.00G) exceeds available HBM (15.75G)."
    )
    late = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space"
        " hbm. Used 21.64G of 15.48G hbm. Exceeded hbm capacity by 6.16G."
    )
    assert compiled.overflow_of(early) == Overflow(40 * GIB, round(15.75 * GIB))
    assert str(compiled.overflow_of(late)) == (
        "does not fit, 6.16 GiB over: XLA needs 21.64 GiB of 15.48 GiB"
    )


def test_other_errors_of_a_compiler_stay_errors():
    """A kernel that wants too much of a core's own memory is a fault of the kernel."""
    kernel = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.25M of 16.00M vmem."
    )
    assert compiled.overflow_of(kernel) is None
    assert compiled.overflow_of("INTERNAL: Mosaic failed to compile") is None


def test_a_program_for_a_gpu_that_is_too_large_does_not_fit():
    memory = Memory(
        arguments=60 * GIB,
        outputs=10 * GIB,
        aliased=9 * GIB,
        temporaries=30 * GIB,
        code=0,
        peak=91 * GIB,
    )
    assert compiled._too_large(memory, parse("h200:1")) is None
    overflow = compiled._too_large(memory, parse("h100:8"))
    assert overflow.needed == 91 * GIB and "does not fit" in str(overflow)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "h100:4"])
def test_a_small_step_is_compiled_for_devices_that_are_not_here(topology):
    packages, _ = compiled.COMPILERS["gpu" if topology.startswith("h") else "tpu"]
    if not any(map(importlib.util.find_spec, packages)):
        pytest.skip(f"compiling for {topology} needs {packages[0]}")
    script = Path(__file__).with_name("check_compiled.py")
    command = [sys.executable, script, topology]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
