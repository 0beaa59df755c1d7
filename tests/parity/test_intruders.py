"""Intruder dimensions are counted as the published script counts them, and scaled as peft does.

make_intruders.py wrote the fixtures. The second half runs it with other weights in a Python that
has peft (marked peers); INTRUDERS_REPOSITORY names a checkout of the published script.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lfl_jax.analysis import intruders

HERE = Path(__file__).parent
NUMBERS = dict(np.load(HERE / "intruders.npz"))
NAMES = [name.removeprefix("w/") for name in NUMBERS if name.startswith("w/")]
RANK = 3
EPSILONS, TOP_KS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (1, 3, 10)
MITIGATIONS = {"default": (0.75, 0.5, 10), "removed": (0.0, 0.6, 10), "doubled": (2.0, 0.5, 2)}


def require_counts(numbers):
    """The published counts, of all epsilons and k, of every weight."""
    for name in NAMES:
        found = intruders.directions(numbers[f"w/{name}"], numbers[f"dw/{name}"], max(TOP_KS))
        counts = intruders.counts(found.cosines, EPSILONS, TOP_KS)
        np.testing.assert_array_equal(counts, numbers[f"counts/{name}"], name)


def require_mitigated(numbers, case):
    """What peft makes of a change: intruders scaled, then the nearest LoRA of the old rank."""
    factor, epsilon, top_k = MITIGATIONS[case]
    counts = []
    for name in NAMES:
        dw = numbers[f"dw/{name}"].astype(np.float64)
        found = intruders.directions(numbers[f"w/{name}"], dw, top_k)
        chosen = found.is_intruder(epsilon)
        altered = dw + (factor - 1) * (found.v[:, chosen] * found.s[chosen]) @ found.u[:, chosen].T
        u, s, vt = np.linalg.svd(altered)
        nearest = (u[:, :RANK] * s[:RANK]) @ vt[:RANK]
        np.testing.assert_allclose(numbers[f"{case}/{name}"], nearest, atol=2e-5, err_msg=name)
        assert np.abs(nearest - dw).max() > 0.01
        counts.append(chosen.sum())
    np.testing.assert_array_equal(numbers[f"{case}/counts"], counts)


def test_counts_are_those_of_the_published_script():
    require_counts(NUMBERS)
    # The other layout, or dW in place of W + dW, counts otherwise.
    for name in NAMES:
        w, dw = NUMBERS[f"w/{name}"].astype(np.float64), NUMBERS[f"dw/{name}"]
        for other in (intruders.directions(w.T, dw.T), intruders.directions(w, dw - w)):
            counts = intruders.counts(other.cosines, EPSILONS, TOP_KS)
            assert not np.array_equal(counts, NUMBERS[f"counts/{name}"]), name


@pytest.mark.parametrize("case", MITIGATIONS)
def test_scaled_intruders_are_those_of_peft(case):
    require_mitigated(NUMBERS, case)


@pytest.mark.peers
def test_other_weights_live(tmp_path):
    """Runs make_intruders.py in the Python named by PEER_PYTHON, or this one."""
    python = os.environ.get("PEER_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import peft"], capture_output=True).returncode:
        pytest.skip(
            "peft is not installed (extra peers); PEER_PYTHON may name a Python that has it"
        )
    rng, arrays = np.random.default_rng(17), {}
    for name in NAMES:
        shape = NUMBERS[f"w/{name}"].shape
        arrays[f"w/{name}"] = 0.3 * rng.normal(size=shape).astype(np.float32)
        arrays[f"a/{name}"] = 0.3 * rng.normal(size=(shape[0], RANK)).astype(np.float32)
        arrays[f"b/{name}"] = 0.3 * rng.normal(size=(RANK, shape[1])).astype(np.float32)
    np.savez(tmp_path / "given.npz", **arrays)
    repository = os.environ.get("INTRUDERS_REPOSITORY", "-")
    script = [python, HERE / "make_intruders.py", repository, "--check", tmp_path / "given.npz"]
    run = subprocess.run(script, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    numbers = dict(np.load(tmp_path / "numbers.npz"))
    for case in MITIGATIONS:
        require_mitigated(numbers, case)
    if repository != "-":
        require_counts(numbers)
