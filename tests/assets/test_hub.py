"""Hub items: what arrives is checked against the hub's listing, and every failure is one clear
message."""

import hashlib
import importlib
import os
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from lfl_jax import assets
from lfl_jax.assets.hub import fetch as fetch_hub
from lfl_jax.core import files
from lfl_jax.errors import UserError

manifest = importlib.import_module("lfl_jax.assets.manifest")

COMMIT = "0123456789012345678901234567890123456789"
TEXT = f"""
[wheels]
[items.corpus]
kind = "dataset"
licence = "MIT"
about = "a corpus"
repo = "someone/corpus"
repo_type = "dataset"
revision = "{COMMIT}"
patterns = ["data/*.jsonl"]
[groups]
"""
CONTENT = {"data/a.jsonl": b'{"text": "one"}\n', "data/b.jsonl": b'{"text": "two"}\n'}


class Hub:
    """Stands in for the hub: lists CONTENT and a README, and writes `arrives` into the local
    folder."""

    def __init__(self, monkeypatch, arrives=CONTENT, fails=None):
        self.calls = []
        self.arrives, self.fails = arrives, fails
        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", self.repo_info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def repo_info(self, **call):
        if self.fails is not None:
            raise self.fails
        self.calls.append(call)
        rows = [
            SimpleNamespace(
                rfilename=name,
                size=len(data),
                lfs=SimpleNamespace(sha256=hashlib.sha256(data).hexdigest()),
            )
            for name, data in CONTENT.items()
        ]
        readme = SimpleNamespace(rfilename="README.md", size=9, lfs=None)
        return SimpleNamespace(siblings=[*rows, readme], sha=COMMIT)

    def snapshot_download(self, **call):
        self.calls.append(call)
        for name, data in self.arrives.items():
            (call["local_dir"] / name).parent.mkdir(parents=True, exist_ok=True)
            (call["local_dir"] / name).write_bytes(data)
        (call["local_dir"] / ".cache" / "huggingface").mkdir(parents=True)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("LFL_CACHE", str(tmp_path))
    monkeypatch.setattr(manifest, "read", lambda: manifest.parse(TEXT))
    return manifest.item("corpus")


def response(status):
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_the_pinned_commit_and_only_the_wanted_files_are_asked_for(corpus, monkeypatch):
    hub = Hub(monkeypatch)
    fetch_hub(corpus)
    assert all(call["revision"] == COMMIT and call["repo_type"] == "dataset" for call in hub.calls)
    assert hub.calls[-1]["allow_patterns"] == sorted(CONTENT)
    assert assets.path("corpus", "data/b.jsonl").read_bytes() == CONTENT["data/b.jsonl"]
    found = assets.provenance("corpus")
    assert sorted(found["files"]) == sorted(CONTENT) and found["commit"] == COMMIT
    assert found["origin"]["revision"] == COMMIT
    assert [entry.name for entry in assets.root().iterdir()] == ["corpus"]


@pytest.mark.parametrize(
    "arrives",
    [
        {"data/a.jsonl": CONTENT["data/a.jsonl"]},
        CONTENT | {"data/b.jsonl": b"short"},
        CONTENT | {"data/b.jsonl": b'{"text": "tvo"}\n'},
    ],
    ids=["a file is missing", "a file is short", "a byte is wrong"],
)
def test_a_damaged_download_is_not_installed_and_its_good_part_is_kept(
    corpus, monkeypatch, arrives
):
    Hub(monkeypatch, arrives)
    with pytest.raises(UserError, match=r"someone/corpus: b.jsonl arrived damaged"):
        fetch_hub(corpus)
    assert not assets.is_cached("corpus")
    assert (assets.root() / ".hub-corpus" / "data" / "a.jsonl").exists()
    Hub(monkeypatch)
    fetch_hub(corpus)
    assert assets.is_cached("corpus")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            errors.GatedRepoError("", response=response(403)),
            r"someone/corpus is gated. .*hf auth login",
        ),
        (
            errors.RepositoryNotFoundError("", response=response(401)),
            r"does not show someone/corpus to you",
        ),
        (
            errors.RevisionNotFoundError("", response=response(404)),
            rf"has no branch, tag or commit {COMMIT}",
        ),
        (
            errors.OfflineModeIsEnabled("offline mode is enabled"),
            r"offline mode is enabled \(offline\?\)",
        ),
        (errors.HTTPError("Name or service not known"), r"Name or service not known \(offline\?\)"),
        (errors.HfHubHTTPError("503 Server Error", response=response(503)), r"503 Server Error"),
    ],
)
def test_a_failure_is_one_or_two_lines_and_leaves_nothing(corpus, monkeypatch, error, message):
    Hub(monkeypatch, fails=error)
    with pytest.raises(UserError, match=message) as caught:
        fetch_hub(corpus)
    assert str(caught.value).startswith("corpus: ")
    assert len(str(caught.value).splitlines()) <= 2
    assert not list(assets.root().iterdir())


def test_a_repository_without_such_files_is_refused(corpus, monkeypatch):
    monkeypatch.setattr(
        manifest, "read", lambda: manifest.parse(TEXT.replace("data/*.jsonl", "data/*.parquet"))
    )
    Hub(monkeypatch, arrives={})
    with pytest.raises(UserError, match=r"has no file like data/\*.parquet"):
        fetch_hub(manifest.item("corpus"))


def test_offline_the_command_says_so_and_exits_with_2(tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "LFL_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "lfl_jax.fetch", "gsm8k-train"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr.startswith("error: gsm8k-train: cannot download openai/gsm8k from the hub")
    assert "Traceback" not in run.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_a_hub_item_hashes_its_files(corpus, monkeypatch):
    Hub(monkeypatch)
    fetch_hub(corpus)
    file = assets.path("corpus", "data/a.jsonl")
    assert assets.provenance("corpus")["files"]["data/a.jsonl"]["sha256"] == files.sha256(file)


def test_a_branch_is_resolved_once_and_its_commit_recorded(corpus, monkeypatch):
    hub = Hub(monkeypatch)
    fetch_hub(manifest.item("corpus@later"))
    assert [call["revision"] for call in hub.calls] == ["later", COMMIT]
    assert assets.provenance("corpus@later")["commit"] == COMMIT and not assets.is_cached("corpus")


def pinned(monkeypatch, **hashes):
    rows = ", ".join(f'"{name}" = "{sha256}"' for name, sha256 in hashes.items())
    text = TEXT.replace("[groups]", f"sha256 = {{ {rows} }}\n[groups]")
    monkeypatch.setattr(manifest, "read", lambda: manifest.parse(text))
    return manifest.item("corpus")


def test_content_is_compared_with_what_the_manifest_pins(corpus, monkeypatch, tmp_path):
    Hub(monkeypatch)
    right = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
    with pytest.raises(UserError, match=r"has another data/a.jsonl than is pinned"):
        fetch_hub(pinned(monkeypatch, **right | {"data/a.jsonl": "0" * 64}))
    with pytest.raises(UserError, match=r"lacks data/c.jsonl than is pinned|lacks data/c.jsonl"):
        fetch_hub(pinned(monkeypatch, **right | {"data/c.jsonl": "0" * 64}))
    assert not assets.is_cached("corpus") and not list(tmp_path.glob("**/a.jsonl"))
    fetch_hub(pinned(monkeypatch, **right))
    assert assets.is_cached("corpus")


def test_another_content_of_the_same_commit_is_refused(corpus, monkeypatch, tmp_path):
    Hub(monkeypatch)
    fetch_hub(corpus)
    (tmp_path / "corpus" / "data" / "a.jsonl").write_bytes(b'{"text": "ONE"}\n')
    assert not assets.is_cached("corpus")
    # The hub's listing and its files agree, and are not what they were.
    lie = CONTENT | {"data/a.jsonl": b'{"text": "two"}\n'}
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", lie)
    Hub(monkeypatch, arrives=lie)
    with pytest.raises(UserError, match=r"has another data/a.jsonl than is pinned"):
        fetch_hub(corpus)
    assert not assets.is_cached("corpus")
