"""README and docs: their code and commands run, their paths exist, and their pages stay short.

tests/doc_pages.py says how a page marks what cannot run, and why. The model and the run that pages
name (`smollm2-135m`, `runs/quickstart`) are tiny stand-ins in the folder where the blocks run.
Training commands run with SMALL in front of their own flags, which therefore win.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import doc_pages
import jax
import pytest
from doc_pages import NOT_RUN, PAGES, ROOT, Block
from helpers import adapter_for

import lfl_jax
from lfl_jax import analyze, compare, doctor, evaluate, main, plan, study
from lfl_jax.config import command_line, own_code
from lfl_jax.core import spec
from lfl_jax.io import hf
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.studies import grid
from lfl_jax.studies.search import search

# k and v take rank 64, which pages name, and positions suffice for a program of byte-like tokens.
TINY = ModelConfig(
    vocab_size=608, d_model=128, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=64, d_ff=192, tied=True,
    max_seq_len=2048,
)  # fmt: skip
SMALL = [
    f"--config.{field}"
    for field in (
        "model.path=smollm2-135m", "data.size=64", "data.seq_len=256", "data.too_long=truncate",
        "train.steps=2", "eval.limit=2", "eval.max_new_tokens=4", "eval.seq_len=1024",
        "eval.decontaminate=False", "log.tensorboard=False",
    )
]  # fmt: skip
# A command that names a config trains or loads a model: that of SMALL. A study names its runs'.
SHIM = f"""#!/usr/bin/env bash
if [[ "$1" == -m && "$2" == lfl_jax.* && "$2" != lfl_jax.study && "$*" == *--config[=\\ ]* ]]; then
    exec {sys.executable} -m "$2" {" ".join(SMALL)} "${{@:3}}"
fi
exec {sys.executable} "$@"
"""
ROWS = '{"question": "What is 3 + 4?", "answer": "3 + 4 = 7\\n#### 7"}\n'
README_LINES, PAGE_LINES = 150, 200
# what the study command reads, by kind
READ = {"study": lambda values: grid.expand(grid.read(values)), "search": search.read}


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    """A folder with what pages take for granted, in a small form."""
    folder = tmp_path_factory.mktemp("docs")
    params = jax.jit(lambda key: spec.init(llama.specs(TINY), key))(jax.random.key(0))
    hf.save(folder / "smollm2-135m", params, TINY, dtype="float32")
    for file in (ROOT / "tests" / "fixtures" / "tiny_llama").glob("tokenizer*"):
        shutil.copy(file, folder / "smollm2-135m")
    shutil.copytree(folder / "smollm2-135m", folder / "my_model")
    lfl_jax.save_adapter(folder / "their_adapter", adapter_for(TINY, params), params)
    for name in ("my", "train", "dev", "test"):
        rows = (ROWS.replace("3", str(i)) for i in range(20, 50))
        (folder / f"{name}.jsonl").write_text("".join(rows))
    scores = ("base,1,0", "base,2,1", "base,3,0", "lora,1,1", "lora,2,1", "lora,3,0")
    (folder / "scores.csv").write_text("\n".join(("run,item,score", *scores, "")))
    for name in ("configs", "examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def quick_folder(tiny_files, tmp_path_factory):
    """That folder with an adapter, and the figures of the real quickstart, where the run would be."""
    folder = tmp_path_factory.mktemp("quick") / "docs"
    shutil.copytree(tiny_files, folder, symlinks=True)
    shutil.copytree(folder / "their_adapter", folder / "runs" / "quickstart")
    shutil.copy(ROOT / "results/quickstart_cpu/results.json", folder / "runs" / "quickstart")
    return folder


@pytest.fixture(scope="module")
def slow_folder(tiny_files, tmp_path_factory):
    """That folder with a small run in it."""
    folder = tmp_path_factory.mktemp("slow") / "docs"
    shutil.copytree(tiny_files, folder, symlinks=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(SHIM)
    (folder / "bin" / "python").chmod(0o755)
    command = "python -m lfl_jax.main --config=configs/math_ift.py --workdir=runs/quickstart"
    run_bash(f"{command} --config.checkpoint.every=1 --config.checkpoint.keep=2", folder)
    return folder


def run_bash(text: str, folder: Path) -> str:
    """Run a block as it stands; returns what it printed."""
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def run_block(block: Block, names: dict, folder: Path) -> None:
    """Run a block in the folder, Python with the names of its page."""
    if block.file:
        (folder / block.file).write_text(block.text)
        sys.modules.pop(Path(block.file).stem, None)
        importlib.invalidate_caches()
    if block.language == "bash":
        print(f"\n== {block.name}\n{block.text}{run_bash(block.text, folder)}")
    elif not (block.file or "").endswith(".jsonl"):
        exec(compile(block.text, block.name, "exec", dont_inherit=True), names)


def run_page(page: Path, folder: Path, monkeypatch, selected) -> None:
    """Run the selected blocks of a page in order."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    names: dict = {"__name__": page.stem}
    for block in doc_pages.blocks(page):
        if selected(block):
            run_block(block, names, folder)


def pages_with(selected) -> list:
    return [
        pytest.param(page, id=page.stem)
        for page in PAGES
        if any(selected(block) for block in doc_pages.blocks(page))
    ]


@pytest.mark.parametrize("page", pages_with(lambda block: block.is_quick))
def test_the_python_of_a_page_runs(page, quick_folder, monkeypatch):
    run_page(page, quick_folder, monkeypatch, lambda block: block.is_quick)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with(lambda block: block.runs and not block.is_quick))
def test_a_whole_page_runs(page, slow_folder, monkeypatch):
    run_page(page, slow_folder, monkeypatch, lambda block: block.runs)


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_the_commands_of_a_page_are_understood(page, quick_folder, monkeypatch):
    monkeypatch.chdir(quick_folder)
    for block in doc_pages.blocks(page):
        if block.file and not Path(block.file).exists():
            Path(block.file).write_text(block.text)
    for module, arguments in doc_pages.commands(page):
        understood(module, arguments)


def understood(module: str, arguments: list[str]) -> None:
    """Parse a command as its entry point does; a run's own config is replaced by one that exists."""
    arguments = [re.sub(r"configs/from_run\.py:[\w/]+", "math_ift", text) for text in arguments]
    if module == "lfl_jax":
        assert not arguments or arguments == ["--version"]
    elif module in ("lfl_jax.export", "lfl_jax.fetch"):
        importlib.import_module(module)._parser().parse_args(arguments)
    elif module == "lfl_jax.analyze":
        analyze._require_usable(analyze._parser().parse_args(arguments))
    elif module == "lfl_jax.compare":
        if "--help" not in arguments:
            compare._require_usable(compare._parser().parse_args(arguments))
    elif module == "lfl_jax.study":
        if "--help" not in arguments:
            options = study._parser().parse_args(arguments)
            study._require_usable(options)
            values = grid.load_values(options.config)
            READ[values["kind"]](values)
    elif module == "lfl_jax.studies.capacity":
        assert len(arguments) == 1
    else:
        known = {"main": main, "evaluate": evaluate, "plan": plan, "doctor": doctor}
        flags = {f"lfl_jax.{name}": each.FLAGS for name, each in known.items()}.get(module)
        flags = flags or {"rows": (2, ""), "decontaminate": (False, ""), **command_line.CODE}
        if not any(
            text.startswith("--config") and "." not in text.partition("=")[0] for text in arguments
        ):
            arguments = ["--config=math_ift", *arguments]
        command_line.parse(["", *arguments], "", flags)


def test_every_block_is_run_or_has_a_reason():
    for page in PAGES:
        for block in doc_pages.blocks(page):
            known = (*doc_pages.CODE, *doc_pages.OUTPUT)
            assert block.language in known or block.language.startswith("{"), block.name
            if block.language in doc_pages.CODE:
                reason = block.mark.removeprefix(NOT_RUN)
                assert block.mark in ("", "slow") or (reason != block.mark and len(reason) > 10)
            if not block.runs and block.language == "python":
                compile(block.text, block.name, "exec")


# A path in code style: folders, and a file with one of these endings. Others are of a user's own.
PATH = re.compile(r"`((?:[\w.{},*-]+/)+[\w.*-]*)`")
ROOMS = {path.name for path in (*ROOT.iterdir(), *(ROOT / "lfl_jax").iterdir()) if path.is_dir()}


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_every_path_that_a_page_names_is_there(page):
    text = page.read_text("utf-8")
    for path in PATH.findall(text):
        if path.partition("/")[0] in ROOMS - {"runs", "evals"} or path.startswith("evals/tasks"):
            assert exists(path), f"{page.name}: {path}"
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_function_that_a_page_names_is_there():
    for page in PAGES:
        for path, name in re.findall(r"`([\w/]+\.py):(\w+)`", page.read_text("utf-8")):
            files = [root / path for root in (ROOT / "lfl_jax", ROOT) if (root / path).is_file()]
            if files or "/" in path:  # others are files of a user's own
                assert files, f"{page.name}: {path}"
                defined = rf"^(def|class) {name}\b"
                assert re.search(defined, files[0].read_text("utf-8"), re.MULTILINE), (
                    page,
                    path,
                    name,
                )


def exists(path: str) -> bool:
    """Whether a path is one of the checkout or of the package; {a,b} and * stand for several."""
    several = re.search(r"\{(.*?)\}", path)
    if several:
        return all(exists(path.replace(several[0], part)) for part in several[1].split(","))
    return any(True for root in (ROOT, ROOT / "lfl_jax") for _ in root.glob(path))


def test_pages_are_short():
    for page in PAGES:
        written = page.read_text("utf-8").partition("<!-- What follows is written by")[0]
        limit = README_LINES if page.name == "README.md" else PAGE_LINES
        assert written.count("\n") <= limit, f"{page.name} has more than {limit} lines"


OBJECTS = [b for b in doc_pages.blocks(ROOT / "docs" / "extending.md") if b.file]


def test_an_object_of_ones_own_is_under_40_lines():
    assert {block.file for block in OBJECTS} >= {
        "my_adapter.py", "my_task.py", "my_source.py", "my_model.py", "my_optimizer.py",
    }  # fmt: skip
    assert all(block.text.count("\n") < 40 for block in OBJECTS)


def test_extending_has_every_field_that_takes_an_object():
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    fields = {path.rpartition(".")[2] for path in own_code.FIELDS}
    rows = " ".join(re.findall(r"^\| `(.*?) \|", page, re.MULTILINE))
    assert all(field in rows for field in fields)
