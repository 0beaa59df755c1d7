"""benchmarks/gpu.py: rows survive whatever happens to a stage, and what is derived from them is right."""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = """
import json, sys, time
stage = sys.argv[1]
print("a library says hello", flush=True)
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


def test_a_stage_that_hangs_or_fails_keeps_its_rows_and_the_next_one_runs(gpu, monkeypatch, tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    stages = (("hangs", 6), ("fails", 20), ("works", 20), ("late", 20))
    monkeypatch.setattr(gpu, "STAGES", tuple(gpu.Stage(name, str(script), "ceilings", limit) for name, limit in stages))
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


def test_utilisation_is_formula_over_ceiling(gpu):
    ours = {"framework": "lfl_jax", "what": "lora", "batch": 4, "tokens": 2048, "step_s": 0.5, "remat": "full"}
    ours |= {"n": 6.6e9, "flops_per_token": 4 * 6.6e9, "recomputed_per_token": 2 * 6.6e9}
    found = {"ceilings": [{"device": "NVIDIA H200", "tflops": 800.0, "gbps": 4000.0}]}
    row = gpu.derived(ours, "steps", found)
    assert row["tokens_per_s"] == 16384
    assert row["mfu"] == pytest.approx(16384 * 26.4e9 / 800e12) and row["mfu_sheet"] == pytest.approx(0.4371, rel=1e-3)
    assert row["tflops_with_recomputation"] == pytest.approx(1.5 * row["tflops"])
    peer = {"framework": "peft", "what": "lora", "batch": 4, "tokens": 2048, "step_s": 1.0, "remat": "none"}
    row = gpu.derived(peer, "steps", found | {"steps": [row]})
    assert row["tflops"] == pytest.approx(8192 * 26.4e9 / 1e12) and row["recomputed_per_token"] == 0


def test_kernels_are_compared_with_xw_of_any_rank_and_xla_of_theirs(gpu):
    common = {"m": 1, "i": 4, "o": 4, "weights": "nf4", "pass": "forward", "tflops": 1.0, "gbps": 1.0}
    rows = [common | {"what": what, "r": r, "us": us} for what, r, us in (("xw", 16, 10.0), ("xla", 64, 20.0))]
    rows.append(rows[1] | {"r": 16, "us": 99.0})
    row = gpu.derived(common | {"what": "kernel", "r": 64, "us": 15.0}, "kernels", {"kernels": rows})
    assert row["of_xw"] == 1.5 and row["of_xla"] == 0.75
    text = gpu.tables({"kernels": [row, {"what": "kernel", "error": "no such tile"}]})
    assert "0.75" in text and "no such tile" in text


def test_it_needs_no_more_than_a_machine_with_jax_flax_optax_and_jaxtyping_has():
    code = "import sys; sys.path.insert(0, 'benchmarks'); old = set(sys.modules); import jax, flax, optax, jaxtyping;"
    code += "brought = set(sys.modules); import gpu_ours; print(*{m.split('.')[0] for m in set(sys.modules) - brought})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    new = set(done.stdout.split()) - set(sys.stdlib_module_names)
    # flax and jax import more of their own requirements as more of them is used; rich is one of flax's
    allowed = {"lfl_jax", "gpu_ours", "gpu_sizes", "rich", "pygments", "markdown_it", "mdurl", "cython_runtime"}
    assert {m for m in new if not m.startswith("_")} <= allowed | {"jax", "jaxlib", "flax", "optax", "jaxtyping"}


@pytest.mark.slow
@pytest.mark.parametrize("only", ["ceilings", "kernels", "grouped", "attention", "step_", "decode_"])
def test_our_stages_run_on_a_cpu(tmp_path, only):
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--size=tiny", f"--only={only}", "--seconds=300"]
    done = subprocess.run([*command, f"--output={tmp_path / 'out.json'}"], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert all(stage["ended"] == "done" for stage in found["stages"]), found["stages"]
    rows = [
        row
        for table in ("ceilings", "kernels", "grouped", "attention", "steps", "decode")
        for row in found.get(table, ())
    ]
    assert not [row["error"] for row in rows if "error" in row]
    assert found == json.loads((tmp_path / "out.json").read_text())
