"""config.mesh.auto: which mesh is chosen, and why."""

import dataclasses
import os
import subprocess
import sys

import pytest

from lfl_jax.config import command_line
from lfl_jax.errors import UserError
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.presets import PRESETS
from lfl_jax.run_setup import auto_mesh, devices

GIB = 2.0**30


def config(words, *flags):
    argv = ["main", f"--config=configs/math_ift.py:{words},mesh=auto", *flags]
    return command_line.parse(argv, "", {})[0]


def chosen(words, count, memory, *flags):
    c = config(words, *flags)
    sizes = auto_mesh.choose(c, PRESETS[c.model.name], count, memory)
    return sizes.data, sizes.fsdp, sizes.tensor


@pytest.mark.parametrize(
    ("words", "count", "memory", "mesh"),
    [
        ("smoke", 1, 1 * GIB, (1, 1, 1)),
        ("paper", 8, 80 * GIB, (8, 1, 1)),  # 12.6 GiB of weights are whole on each
        ("paper", 16, 16 * GIB, (8, 2, 1)),
        ("paper", 256, 16 * GIB, (128, 2, 1)),
        ("paper,full", 8, 80 * GIB, (2, 4, 1)),  # 100 GiB with gradients and moments
        ("paper,full", 16, 16 * GIB, (1, 16, 1)),
        ("paper,13b", 8, 16 * GIB, (2, 4, 1)),
    ],
)
def test_fsdp_is_as_small_as_the_memory_allows(words, count, memory, mesh):
    assert chosen(words, count, memory) == mesh


def test_the_tensor_axis_takes_what_rows_cannot():
    # 4 rows on 8 devices, and 8 heads of which 2 share keys
    assert chosen("paper", 8, 80 * GIB, "--config.train.batch=4") == (4, 1, 2)
    nine = dataclasses.replace(PRESETS["smollm2-135m"])
    # 9 and 3 heads cannot be halved: rows are then computed twice, which a run warns of
    c = config("smoke", "--config.model.name=smollm2-135m", "--config.train.batch=4")
    assert auto_mesh.choose(c, nine, 8, 80 * GIB).tensor == 1


def test_a_width_that_fsdp_does_not_divide_is_not_split_by_it():
    wide = ModelConfig(
        vocab_size=64, d_model=36, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=36, d_ff=64
    )
    sizes = auto_mesh.choose(config("smoke", "--config.train.batch=8"), wide, 8, 1.0)
    assert (sizes.data, sizes.fsdp) == (2, 4) and "take more than half" in sizes.why


def test_a_run_says_which_mesh_it_chose(capsys):
    shape = PRESETS["tiny"]
    rules = devices.rules(config("smoke"), shape)
    said = capsys.readouterr().out
    assert said.startswith("mesh: data 1 x fsdp 1 x tensor 1, chosen for 1 devices, 2 rows: 0.00")
    assert said.count("\n") == 1 and rules.mesh.size == 1
    devices.rules(config("smoke"), shape, show=False)
    assert capsys.readouterr().out == ""


def test_sizes_beside_auto_are_a_contradiction():
    with pytest.raises(UserError, match="config.mesh.auto chooses the mesh; leave out data=2"):
        config("smoke", "--config.mesh.data=2")


@pytest.mark.slow  # two processes that compile: python -m pytest -m slow tests/test_auto_mesh.py
def test_a_run_resumes_on_another_number_of_devices(tmp_path):
    words = "--config=configs/math_ift.py:smoke,r=4,mesh=auto"
    flags = ["schedule=constant", "warmup_steps=1"]
    flags = [f"--config.optim.{flag}" for flag in flags]
    tasks = "('target_nll:2',)"
    flags += [f"--config.eval.tasks={tasks}", f"--config.eval.every_tasks={tasks}"]
    flags += ["--config.train.batch=4", "--config.eval.decontaminate=False"]
    flags += ["--config.data.seq_len=128", f"--workdir={tmp_path / 'run'}"]
    for count, steps in ((2, 2), (1, 3)):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(count)}
        command = [sys.executable, "-m", "lfl_jax.main", words, *flags]
        run = subprocess.run(
            [*command, f"--config.train.steps={steps}"],
            capture_output=True, text=True, timeout=900, env=environment,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert f"mesh: data {count} x fsdp 1 x tensor 1" in run.stdout
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum('"train/loss"' in line or '"loss"' in line for line in lines) >= 3
