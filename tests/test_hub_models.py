"""A model and an adapter named as on a hub, from Python and in a config."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from helpers import adapter_for
from hub_server import COMMIT, Repository, in_place_of_the_hub
from lfl_jax.configs import base

import lfl_jax
from lfl_jax.assets import readers
from lfl_jax.config import Config, DataConfig
from lfl_jax.core import spec
from lfl_jax.core.sharding import make_rules
from lfl_jax.data import sources
from lfl_jax.models import llama
from lfl_jax.run_setup import base_model
from lfl_jax.text.tokenizers import from_folder

TOKENS = jnp.arange(12).reshape(2, 6)


@pytest.fixture
def published(small, tmp_path, monkeypatch, request):
    """someone/base and someone/adapter on a hub; parameters and adapter as they are."""
    tokenizer = from_folder(request.config.rootpath / "tests" / "fixtures" / "tiny_llama")
    cfg = dataclasses.replace(small, vocab_size=tokenizer.vocab_size)
    params = spec.init(llama.specs(cfg), jax.random.key(0))
    adapter = adapter_for(cfg, params)
    lfl_jax.save(tmp_path / "base", params, cfg, tokenizer, dtype="float32")
    lfl_jax.save_adapter(tmp_path / "adapter", adapter, params, base_name="someone/base")
    repositories = {
        f"someone/{name}": Repository(_files(tmp_path / name)) for name in ("base", "adapter")
    }
    with in_place_of_the_hub(repositories, monkeypatch, tmp_path / "cache"):
        yield params, adapter


def _files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_model_and_adapter_load_by_their_names(published, capsys):
    original, trained = published
    params, cfg, tokenizer = lfl_jax.load("hf:someone/base")
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params, original)) and tokenizer.encode("a")
    found, adapter = lfl_jax.load_adapter(f"hf:someone/adapter@{COMMIT}", params)
    ours, theirs = (
        llama.forward(p, a, TOKENS, cfg)[0] for p, a in ((found, adapter), (original, trained))
    )
    assert jnp.allclose(ours, theirs, atol=1e-5)
    assert jnp.abs(ours - llama.forward(params, None, TOKENS, cfg)[0]).max() > 0.1
    assert "hf:someone/base: fetched into" in capsys.readouterr().out


def test_a_run_takes_its_base_from_a_hub_and_records_the_commit(published):
    values = base.base()
    values.model.path, values.adapter.rank = "hf:someone/base@main", 4
    config = Config.from_dict(values)
    loaded = base_model.load(config, make_rules(devices=jax.devices()[:1]))
    assert loaded.origin.provenance()["source"] == f"hf:someone/base@main at commit {COMMIT[:12]}"


ROWS = {
    split: b"".join(
        b'{"question": "%s %d?", "answer": "#### %d"}\n' % (split.encode(), i, i)
        for i in range(count)
    )
    for split, count in (("train", 200), ("test", 5))
}


@pytest.mark.parametrize(
    "values",
    [
        {"source": "hf:someone/sums", "test_path": "hf:someone/sums:test"},
        {"source": f"hf:someone/sums@{COMMIT}", "test_path": "hf:someone/sums:test"},
        {"source": "jsonl", "path": "hf:someone/sums", "test_path": "hf:someone/sums:test"},
    ],
    ids=["source", "at a commit", "path"],
)
def test_a_dataset_trains_and_its_own_test_split_tests(values, tmp_path, monkeypatch):
    files = {"data/train.jsonl": ROWS["train"], "data/test.jsonl": ROWS["test"]}
    repositories = {"datasets/someone/sums": Repository(files, {"license": "mit"})}
    with in_place_of_the_hub(repositories, monkeypatch, tmp_path):
        data = DataConfig(**base.base().data.to_dict() | values)
        train, test = (sources.open_source(data, split, 0) for split in ("train", "test"))
    assert test.examples[4].prompt == "test 4?" and len(test.examples) == 5
    assert {e.prompt.split()[0] for e in train.examples} == {"train"} and len(train.examples) > 190
    assert train.licence == "mit" and COMMIT[:12] in train.description


def test_an_evaluation_reads_its_documents_from_a_hub(tmp_path, monkeypatch):
    repositories = {"datasets/someone/sums": Repository({"test.jsonl": ROWS["test"]})}
    with in_place_of_the_hub(repositories, monkeypatch, tmp_path):
        docs = readers.with_files({"gsm8k-test": "hf:someone/sums:test"})
        assert docs("gsm8k-test")[1] == {"question": "test 1?", "answer": "#### 1"}
