"""Sharded steps and kernels, in processes of their own, because the number of devices is fixed when
jax starts."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

MIXTURE = "pissa+vera+mora+loftq+bottleneck"  # over a base in nf4
CASES = [
    (MIXTURE, "2x2x2"),
    ("lora+dora", "2x2x2"),
    ("lora+dora", "1x8x1"),
    ("none", "2x2x2"),
    ("none", "1x8x1"),
    ("lora+subspace", "2x2x2"),
]


def printed(script: str, *arguments: str) -> str:
    """What a script of this folder says when all its checks hold."""
    command = [sys.executable, Path(__file__).with_name(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mesh"), CASES)
def test_steps_on_eight_devices_are_the_steps_on_one(kind, mesh):
    assert "sharded" in printed("check_meshes.py", kind, mesh)


METHODS = ("lora", "lora, A = 0", "dora", "dora, A = 0", "qlora", "qlora, A = 0", "full")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_gradients_and_saved_files_of_every_mesh_are_those_of_one_device(method):
    """A "p" after a mesh is a permuted order of its devices."""
    meshes = ("8x1x1", "1x8x1", "2x2x2", "1x2x4", "2x2x2p", "1x2x4p")
    lines = printed("check_methods.py", *meshes, f"--cases={method}").splitlines()
    assert [line.split(" on ")[1].partition(":")[0] for line in lines] == list(meshes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "lora+dora"])
def test_penalties_on_eight_devices_are_those_on_one(kind):
    one, eight, _ = printed("check_meshes.py", kind, "2x2x2", "adamw", "penalties").splitlines()
    for x, y in zip(*(ast.literal_eval(line).values() for line in (one, eight)), strict=True):
        assert float(x) == pytest.approx(float(y), rel=1e-3) and float(x) > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adafactor", "lamb", "muon"])
@pytest.mark.parametrize("kind", ["none", "lora+dora"])
def test_optimizers_that_look_at_whole_matrices_do_so_on_eight_devices(kind, optimizer):
    assert "sharded" in printed("check_meshes.py", kind, "2x2x2", optimizer)


@pytest.mark.slow
def test_a_low_rank_kernel_on_shards_is_the_projection_on_one_device():
    assert printed("check_low_rank.py").count("sharded True") == 6


@pytest.mark.slow
def test_kernels_and_ids_in_a_model_on_eight_devices_change_nothing():
    assert printed("check_adapters.py").count(": equal") == 3


@pytest.mark.slow
def test_attention_and_the_loss_on_eight_devices_are_those_on_one():
    assert printed("check_kernels.py").count(": equal") == 10


@pytest.mark.slow
def test_the_divergence_on_eight_devices_is_that_on_one():
    assert printed("check_divergence.py").count(": equal") == 2
