"""What README shows must run."""

import dataclasses
import re
import shutil
from pathlib import Path

import jax
from helpers import adapter_for

import lfl_jax
from lfl_jax.core import spec
from lfl_jax.io import hf
from lfl_jax.models import llama
from lfl_jax.models.presets import PRESETS

README = Path(__file__).parent.parent / "README.md"
FILES, RUNS, VALUES = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)


def test_the_code_about_files_runs(tmp_path, monkeypatch):
    """With a small random model in place of the fetched one, and a PEFT folder in place of the
    run."""
    cfg = dataclasses.replace(PRESETS["tiny"], vocab_size=608)
    params = jax.jit(lambda key: spec.init(llama.specs(cfg), key))(jax.random.key(0))
    hf.save(tmp_path / "base", params, cfg, dtype="float32")
    for file in (Path(__file__).parent / "fixtures" / "tiny_llama").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    lfl_jax.save_adapter(tmp_path / "adapter", adapter_for(cfg, params), params)
    monkeypatch.chdir(tmp_path)
    code = FILES.replace('"smollm2-135m"', '"base"').replace('"runs/quickstart"', '"adapter"')
    assert code.count('"base"') == 1 and code.count('"adapter"') == 1
    exec(code, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "adapter",
        "base",
        "math.safetensors",
        "math_merged",
        "math_peft",
    ]


def test_the_code_about_runs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"lfl_jax": lfl_jax}
    exec(RUNS, names)
    assert (tmp_path / "runs" / "mine" / "results.json").is_file()
    assert {"task", "metric", "estimate", "low", "high"} <= names["scores"][0].keys()


def test_the_code_about_values_runs():
    names = {}
    exec(VALUES, names)
    assert names["hidden"].shape == (2, 8, 64) and names["merged"].keys() == names["params"].keys()


def test_every_page_and_picture_that_is_named_is_there():
    named = re.findall(r"\]\(([^)#:]+)[^)]*\)", README.read_text())
    files = [file for file in named if file != "https"]
    assert len(files) > 10 and all((README.parent / file).exists() for file in files)


def test_the_two_commands_are_there():
    text = README.read_text()
    assert "bash launch/quickstart.sh" in text and "bash check.sh" in text
