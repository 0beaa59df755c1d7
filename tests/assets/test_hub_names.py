"""Any repository by name: hf:ORG/NAME, from a hub on the loopback."""

import json
import os
import subprocess
import sys

import pytest
from hub_server import COMMIT, Repository, in_place_of_the_hub

from lfl_jax import assets
from lfl_jax.assets import fetching, hub_names
from lfl_jax.errors import UserError

MODEL = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "tokenizer.json": b"{}",
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"{{ x }}",
    "LICENSE.txt": b"words",
    "README.md": b"",
    "original/consolidated.safetensors": b"again",
}
SPLITS = [{"split": "train", "path": "main/train-*"}, {"split": "test", "path": ["main/test-*"]}]
CARD = {
    "license": "cc-by-4.0",
    "configs": [
        {"config_name": "main", "data_files": SPLITS},
        {"config_name": "socratic", "data_files": "socratic/*"},
    ],
}
QUESTIONS = {
    "main/train-00000.parquet": b"PAR1a",
    "main/train-00001.parquet": b"PAR1b",
    "main/test-00000.parquet": b"PAR1c",
    "socratic/all.parquet": b"PAR1d",
    "README.md": b"",
}
PLAIN = {
    "train.jsonl": b'{"text": "one"}\n',
    "data/dev.csv": b"a,b\n",
    "test.jsonl.gz": b"gz",
    "dataset_infos.json": b"{}",
}
REPOSITORIES = {
    "someone/llama": Repository(MODEL, {"license": "apache-2.0"}, branches=("main", "v1.0")),
    "someone/pickled": Repository({"pytorch_model.bin": b"pickle"}),
    "someone/quants": Repository({"a.Q4.gguf": b"GGUF4", "a.Q8.gguf": b"GGUF8", "README.md": b""}),
    "someone/gated": Repository(MODEL, gated=True),
    "someone/outside": Repository(MODEL, listed={"../../victim.json": 3}),
    "datasets/someone/questions": Repository(
        QUESTIONS, CARD, branches=("main", "refs/convert/parquet")
    ),
    "datasets/someone/plain": Repository(PLAIN),
    "datasets/someone/script": Repository({"script.py": b"import os"}),
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub in the place of the real one, and an empty cache."""
    with in_place_of_the_hub(REPOSITORIES, monkeypatch, tmp_path / "cache") as server:
        yield server


def files(folder):
    found = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in found if name != "item.json")


def test_a_model_is_its_safetensors_with_config_and_tokenizer_at_a_commit(hub, capsys):
    folder = fetching.local("hf:someone/llama")
    wanted = [
        "LICENSE.txt",
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
    ]
    assert files(folder) == wanted, "no pickles, and nothing of subfolders"
    found = assets.provenance("hf:someone/llama")
    assert (
        found["commit"] == COMMIT
        and found["licence"] == "apache-2.0"
        and found["origin"]["repo"] == "someone/llama"
    )
    assert assets.licence("hf:someone/llama") == "apache-2.0"
    assert f"/someone/llama/resolve/{COMMIT}/model.safetensors" in hub.requests, (
        "downloaded at the commit"
    )
    asked = len(hub.requests)
    assert fetching.local("hf:someone/llama") == folder and len(hub.requests) == asked, (
        "the second time from the cache"
    )
    assert "fetched into" in capsys.readouterr().out
    assert fetching.local(folder / "config.json") == folder / "config.json", "a path is itself"


@pytest.mark.parametrize("revision", ["v1.0", COMMIT])
def test_a_tag_or_commit_has_a_place_of_its_own(hub, revision):
    assert fetching.local(f"hf:someone/llama@{revision}") != fetching.local("hf:someone/llama")
    assert assets.provenance(f"hf:someone/llama@{revision}")["commit"] == COMMIT


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("someone/quants:a.Q4.gguf", ["a.Q4.gguf"]),
        (
            "datasets/someone/questions:main",
            ["main/train-00000.parquet", "main/train-00001.parquet"],
        ),
        ("datasets/someone/questions:main:test", ["main/test-00000.parquet"]),
        ("datasets/someone/questions:socratic", ["socratic/all.parquet"]),
        ("datasets/someone/plain", ["train.jsonl"]),
        ("datasets/someone/plain:validation", ["data/dev.csv"]),
        ("datasets/someone/plain:data:validation", ["data/dev.csv"]),
        ("datasets/someone/plain:test", ["test.jsonl.gz"]),
    ],
)
def test_files_of_a_name(hub, name, wanted):
    assert files(fetching.local(f"hf:{name}")) == wanted


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("someone", r"hf:someone: expected hf:ORG/NAME\[@REVISION\]\[:FILE\]"),
        ("datasets/a/b:c:d:e", r"expected hf:datasets/ORG/NAME"),
        ("a/../../etc", "expected hf:ORG/NAME"),
        ("someone/nothing", "does not show someone/nothing to you. Is its name right"),
        ("someone/gated", r"is gated. .*hf auth login"),
        ("someone/llama@v9", "has no branch, tag or commit v9"),
        (f"someone/llama@{'f' * 40}", "has no branch, tag or commit"),
        ("someone/pickled", "no .safetensors and no .gguf file; other formats run code"),
        (
            "someone/quants",
            r"several .gguf files; name one: hf:someone/quants:a.Q4.gguf \(or a.Q8.gguf\)",
        ),
        ("someone/quants:b.gguf", "no such file; there are: a.Q4.gguf, a.Q8.gguf"),
        ("datasets/someone/questions", "which config.*there are: main, socratic"),
        ("datasets/someone/questions:main:dev", "no split 'dev'; there are: train, test"),
        (
            "datasets/someone/plain:extra",
            "no split or folder 'extra'; there are: train, validation, test",
        ),
        ("datasets/someone/script", "no data files.*@refs/convert/parquet:CONFIG:SPLIT"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_or_two_lines_and_leaves_nothing(hub, name, message):
    with pytest.raises(UserError, match=message) as caught:
        fetching.local(f"hf:{name}")
    assert len(str(caught.value).splitlines()) <= 2
    left = assets.root().iterdir() if assets.root().exists() else []
    assert [entry.name for entry in left if entry.name != ".lock"] == []


def test_a_token_opens_what_is_gated(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert "model.safetensors" in files(fetching.local("hf:someone/gated"))


def test_a_listing_cannot_name_files_outside_its_folder(hub, tmp_path):
    (tmp_path / "victim.json").write_text("mine")
    fetching.local("hf:someone/outside")
    assert (tmp_path / "victim.json").read_text() == "mine", (
        "a name with folders is not of the model's own files"
    )
    name = hub_names.parse("hf:datasets/a/b")
    assert hub_names.choose(name, ["../x/train.jsonl"], {}) == ["../x/train.jsonl"], (
        "refused by what fetches"
    )
    REPOSITORIES["datasets/someone/outside"] = Repository(PLAIN, listed={"../../train.jsonl": 3})
    with pytest.raises(UserError, match="lists '../../train.jsonl', which is no file of its own"):
        fetching.local("hf:datasets/someone/outside")


def test_another_commit_than_asked_for_is_refused(hub, monkeypatch):
    moved = Repository(MODEL, branches=("a" * 40,), commit="b" * 40)
    monkeypatch.setitem(REPOSITORIES, "someone/moved", moved)
    with pytest.raises(
        UserError, match="asked for commit aaaaaaaaaaaa, the hub answered with bbbbbbbbbbbb"
    ):
        fetching.local(f"hf:someone/moved@{'a' * 40}")


def test_the_command_takes_such_names_and_the_hub_that_the_environment_names(hub, tmp_path):
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "LFL_CACHE": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "lfl_jax.fetch", "hf:someone/llama@v1.0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "hf:someone/llama@v1.0: fetched into" in done.stdout and "(apache-2.0)" in done.stdout
    stamp = json.loads((tmp_path / "hf--someone--llama@v1.0" / "item.json").read_text())
    assert stamp["commit"] == COMMIT
