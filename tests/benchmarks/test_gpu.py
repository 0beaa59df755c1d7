"""benchmarks/gpu.py: rows survive whatever happens to a stage, and what is derived from them is
right."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lfl_jax.core import spec
from lfl_jax.models import llama
from lfl_jax.models.presets import PRESETS

ROOT = Path(__file__).parents[2]
FAKE = """
import json, sys, time
stage = sys.argv[1]
print("a library says hello", flush=True)
print("{and leaves a brace open", flush=True)
print(json.dumps({"device": "NVIDIA H200", "tflops": 800.0, "gbps": 4000.0, "stage": stage}), flush=True)
if stage == "hangs":
    time.sleep(60)
if stage == "fails":
    raise ValueError("out of memory, say")
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


def arguments(tmp_path, **options):
    fields = {"size": "tiny", "seconds": 100.0, "only": "", "output": tmp_path / "out.json"}
    return argparse.Namespace(**fields | {"peer_python": sys.executable} | options)


def test_a_stage_that_hangs_or_fails_keeps_its_rows_and_the_next_one_runs(
    gpu, monkeypatch, tmp_path
):
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    stages = (("hangs", 6), ("fails", 20), ("works", 20), ("late", 20))
    monkeypatch.setattr(
        gpu,
        "STAGES",
        tuple(gpu.Stage(name, str(script), "ceilings", limit) for name, limit in stages),
    )
    deadline = time.monotonic() + 14
    real = gpu._write

    def slow(path, found):  # the third stage uses up what is left
        real(path, found)
        if len(found["stages"]) == 3:
            monkeypatch.setattr(gpu.time, "monotonic", lambda: deadline)

    monkeypatch.setattr(gpu, "_write", slow)
    gpu.run(arguments(tmp_path), deadline)
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["stage"] for row in found["ceilings"]] == ["hangs", "fails", "works"]
    hung, failed, worked, late = (stage["ended"] for stage in found["stages"])
    assert hung == "cut at its limit of 6 s" and worked == "done" and late.startswith("left out")
    assert "out of memory, say" in failed


def test_nothing_a_stage_started_outlives_it(gpu, tmp_path):
    """Such a child would keep the device's memory, or its processors."""
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(50)'])"
    process = subprocess.Popen(
        [sys.executable, "-c", child], stdout=subprocess.PIPE, process_group=0
    )
    time.sleep(1)
    gpu._end(process)
    ended = time.monotonic()
    with process.stdout as pipe:
        assert pipe.read() == b"", "the end of a pipe that the child inherited"
    assert time.monotonic() - ended < 25, "the child had it until its own end"


def test_utilisation_is_formula_over_ceiling(gpu):
    ours = {
        "framework": "lfl_jax",
        "what": "lora",
        "batch": 4,
        "tokens": 2048,
        "step_s": 0.5,
        "remat": "full",
    }
    ours |= {"n": 6.6e9, "flops_per_token": 4 * 6.6e9, "recomputed_per_token": 2 * 6.6e9}
    found = {"ceilings": [{"device": "NVIDIA H200", "tflops": 800.0, "gbps": 4000.0}]}
    row = gpu.derived(ours, "steps", found)
    assert row["tokens_per_s"] == 16384
    assert row["mfu"] == pytest.approx(16384 * 26.4e9 / 800e12) and row[
        "mfu_sheet"
    ] == pytest.approx(0.4371, rel=1e-3)
    assert row["tflops_with_recomputation"] == pytest.approx(1.5 * row["tflops"])
    row = gpu.derived(ours, "steps", {})
    assert row["mfu"] is row["mfu_sheet"] is None and row["tokens_per_s"] == 16384, (
        "the ceilings were not measured"
    )


def test_flops_of_a_token(gpu):
    sizes = importlib.import_module("gpu_sizes")
    for size in sizes.SIZES.values():
        for name, shape in ((size.model, size.shape), (size.full_model, size.full_shape)):
            cfg = PRESETS[name]
            looked_up = 0 if cfg.tied else cfg.vocab_size * cfg.d_model
            norms = (2 * cfg.n_layers + 1) * cfg.d_model
            n = spec.count(llama.specs(cfg)) - looked_up - norms
            assert sizes.flops(shape, "qlora", "none") == {
                "n": n,
                "flops_per_token": 4 * n,
                "recomputed_per_token": 0,
            }
            full = {"n": n, "flops_per_token": 6 * n, "recomputed_per_token": 2 * n}
            assert sizes.flops(shape, "full", "full") == full


def test_a_token_costs_what_the_longer_run_takes_more(gpu):
    sizes = importlib.import_module("gpu_sizes")
    row = sizes.decoded([(3.0, 1.0), (9.0, 1.0), (3.0, 1.5)], 32, rows=4)
    assert row == {"ms_per_token": 62.5, "tokens_per_s": 64.0, "first_32_ms": 1000.0}
    assert "noise" in sizes.decoded([(1.0, 1.1)], 32, rows=4)["error"]


def test_targets_are_ratios_of_speeds_and_left_open_where_a_side_is_missing(gpu):
    def step(framework, what, speed, **others):
        return {
            "framework": framework,
            "what": what,
            "tokens_per_s": speed,
            "mfu": speed / 100,
        } | others

    steps = [
        step("lfl_jax", "lora", 60.0),
        step("lfl_jax", "none", 63.0),
        step("peft", "lora", 20.0),
    ]
    steps += [step("peft", "lora", 40.0, compiled=True), step("peft", "dora", 90.0)]
    decode = [{"framework": "lfl_jax", "what": w, "rows": r, "tokens_per_s": x} for w, r, x in (
        ("bfloat16", 1, 10.0), ("bfloat16", 16, 99.0), ("nf4", 1, 19.0), ("nf4", 64, 999.0)
    )]  # fmt: skip
    found = gpu.targets({"steps": steps, "decode": decode})
    assert list(found.values()) == [0.6, 1.5, None, 1.9, 1.05]
    assert set(gpu.targets({}).values()) == {None}
    assert "over peft's best: 1.5" in gpu.tables({"targets": found})


def test_kernels_are_compared_with_xw_of_any_rank_and_xla_of_theirs(gpu):
    common = {
        "m": 1,
        "i": 4,
        "o": 4,
        "weights": "nf4",
        "pass": "forward",
        "tflops": 1.0,
        "gbps": 1.0,
    }
    rows = [
        common | {"what": what, "r": r, "us": us}
        for what, r, us in (("xw", 16, 10.0), ("xla", 64, 20.0))
    ]
    rows.append(rows[1] | {"r": 16, "us": 99.0})
    row = gpu.derived(
        common | {"what": "kernel", "r": 64, "us": 15.0}, "kernels", {"kernels": rows}
    )
    assert row["of_xw"] == 1.5 and row["of_xla"] == 0.75
    text = gpu.tables({"kernels": [row, {"what": "kernel", "error": "no such tile"}]})
    assert "0.75" in text and "no such tile" in text


def test_every_stage_of_the_list_is_one_of_its_script(gpu):
    sides = {
        name: importlib.import_module(name.removesuffix(".py")).STAGES
        for name in (gpu.OURS, gpu.KERNELS)
    }
    listed = {script: {s.name for s in gpu.STAGES if s.script == script} for script in sides}
    assert listed == {script: set(stages) for script, stages in sides.items()}


# What a machine for JAX and torch need not have, of all that the package requires.
ABSENT = (
    "gguf",
    "google.protobuf",
    "grain",
    "huggingface_hub",
    "ml_collections",
    "pyarrow",
    "safetensors",
)
ABSENT += ("sentencepiece", "tensorboardX", "tokenizers", "beartype", "pytest")
REFUSE = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {ABSENT} or name.startswith({tuple(f"{name}." for name in ABSENT)}):
            raise ModuleNotFoundError(f"{{name}} is not there", name=name)
sys.meta_path.insert(0, Refuse())
"""


def without(tmp_path):
    """An environment whose Pythons do not find the modules of ABSENT."""
    (tmp_path / "sitecustomize.py").write_text(REFUSE)
    return os.environ | {"PYTHONPATH": str(tmp_path)}


def test_it_needs_no_more_than_jax_flax_optax_and_jaxtyping(tmp_path):
    code = (
        "import sys; sys.path[:0] = ['benchmarks', '.']; import gpu_kernels, gpu_ours; import grain"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env=without(tmp_path),
    )
    assert done.stderr.strip().endswith("ModuleNotFoundError: grain is not there"), done.stderr[
        -2000:
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "only", ["ceilings", "kernels", "grouped", "attention", "step_", "decode_"]
)
def test_our_stages_run_on_a_cpu(tmp_path, only):
    command = [
        sys.executable,
        ROOT / "benchmarks/gpu.py",
        "--size=tiny",
        f"--only={only}",
        "--seconds=300",
    ]
    command.append(f"--output={tmp_path / 'out.json'}")
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env=without(tmp_path)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert all(stage["ended"] == "done" for stage in found["stages"]), found["stages"]
    tables = ("ceilings", "kernels", "grouped", "attention", "steps", "decode")
    rows = [row for table in tables for row in found.get(table, ())]
    assert not [row["error"] for row in rows if "error" in row]
    assert found == json.loads((tmp_path / "out.json").read_text())
