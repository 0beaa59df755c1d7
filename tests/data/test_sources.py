"""Sources by name: where their examples come from is recorded, and mistakes are answered."""

import json
import types

import pytest

from lfl_jax import assets
from lfl_jax.data import word_problems
from lfl_jax.data.generated_sources import examples_sha256
from lfl_jax.data.sources import held_out_splits, open_source
from lfl_jax.errors import UserError

ROWS = [{"question": f"How many is {i}?", "answer": f"#### {i}"} for i in range(100)]


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_word_problems_are_flagged_synthetic_and_seeded(make_data):
    source = open_source(make_data(source="word_problems", size=20), "train", 7)
    assert list(source.examples) == list(word_problems.source(7, "train", 20, word_problems.TOP))
    found = source.provenance()
    assert (found["synthetic"], found["seed"], found["examples"], found["split"]) == (
        True,
        7,
        20,
        "train",
    )
    assert "seed 7" in found["description"]


def test_the_hash_of_generated_examples_follows_their_content(make_data):
    data = make_data(source="word_problems", size=20)
    first, again, other = (open_source(data, "train", seed).sha256 for seed in (0, 0, 1))
    assert first == again != other
    assert first == examples_sha256(word_problems.source(0, "train", 20, word_problems.TOP))


@pytest.mark.parametrize("split", word_problems.SPLITS)
def test_every_split_of_the_word_problems_opens(make_data, split):
    assert len(open_source(make_data(source="word_problems", size=5), split, 0).examples) == 5


def test_generated_problems_are_tested_on_templates_seen_and_unseen_and_files_on_one_split(
    make_data,
):
    assert held_out_splits(make_data(source="word_problems")) == ("test_seen", "test_unseen")
    assert held_out_splits(make_data(source="word_problems", path="a.jsonl")) == ("test",)
    assert held_out_splits(make_data(source="gsm8k")) == ("test",)


@pytest.mark.parametrize("name", ["jsonl", "word_problems"])
def test_a_file_takes_the_place_of_the_generator(make_data, rows_file, name):
    source = open_source(make_data(source=name, path=str(rows_file)), "train", 0)
    assert (source.name, source.synthetic, source.seed, len(source.examples)) == (
        "rows.jsonl",
        False,
        None,
        96,
    )
    assert source.examples[0].prompt.startswith("How many is")


def test_splits_of_a_file_share_nothing(make_data, rows_file):
    data = make_data(source="jsonl", path=str(rows_file))
    prompts = [
        {e.prompt for e in open_source(data, split, 0).examples}
        for split in ("train", "dev", "test")
    ]
    assert [len(p) for p in prompts] == [96, 2, 2]
    assert set.union(*prompts) == {row["question"] for row in ROWS}


@pytest.fixture
def cache(monkeypatch, rows_file):
    """Stands for a cache with gsm8k-train and metamathqa in it, each a folder with one data
    file."""
    items = {
        name: types.SimpleNamespace(about=f"about {name}", licence="MIT")
        for name in ("gsm8k-train", "metamathqa")
    }
    monkeypatch.setattr(assets, "manifest", lambda: items)
    monkeypatch.setattr(assets, "licence", lambda name: items[name].licence)
    monkeypatch.setattr(assets, "path", lambda name, file=None: rows_file.parent)
    files = {"LICENSE": {}, "rows.jsonl": {}}
    monkeypatch.setattr(assets, "provenance", lambda name: {"files": files})
    return files


@pytest.mark.parametrize(("name", "item"), [("gsm8k", "gsm8k-train"), ("metamath", "metamathqa")])
def test_fetched_sources_carry_the_licence_of_their_item(make_data, cache, name, item):
    found = open_source(make_data(source=name), "train", 0).provenance()
    assert (found["name"], found["licence"], found["description"]) == (name, "MIT", f"about {item}")
    assert (found["synthetic"], found["examples"], len(found["sha256"])) == (False, 96, 64)


def test_a_named_source_from_a_local_file(make_data, cache, tmp_path):
    local = tmp_path / "local.jsonl"
    local.write_text(json.dumps(ROWS[0]) + "\n")
    source = open_source(make_data(source="gsm8k", path=str(local)), "train", 0)
    assert (source.name, len(source.examples)) == ("gsm8k", 1)


@pytest.mark.parametrize("extra", [{"more.json": {}}, None])
def test_a_fetched_item_with_other_than_one_data_file(make_data, cache, extra):
    if extra is None:
        del cache["rows.jsonl"]
    cache.update(extra or {})
    with pytest.raises(UserError, match="gsm8k-train: expected one data file"):
        open_source(make_data(source="gsm8k"), "train", 0)


def test_a_source_that_is_not_fetched_says_how_to(make_data, monkeypatch, tmp_path):
    try:
        assets.manifest()
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("LFL_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="lfl_jax.fetch gsm8k-train"):
        open_source(make_data(source="gsm8k"), "train", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "gsm9k"}, r"'gsm9k' is unknown; did you mean 'gsm8k'\?"),
        ({"source": "jsonl"}, "needs config.data.path"),
        ({"source": "tfds"}, "tfds:DIR"),
        ({"source": "tfds:/nowhere"}, "/nowhere is not a prepared tensorflow-datasets folder"),
        ({"source": "jsonl", "path": "/nowhere.jsonl"}, "no data file /nowhere.jsonl"),
    ],
)
def test_mistakes_are_answered(make_data, changes, message):
    with pytest.raises(UserError, match=message):
        open_source(make_data(**changes), "train", 0)


@pytest.mark.parametrize("name", ["jsonl", "word_problems"])
def test_an_unknown_split_lists_the_known_ones(make_data, rows_file, name):
    path = str(rows_file) if name == "jsonl" else ""
    with pytest.raises(UserError, match="unknown split 'valid'.* dev"):
        open_source(make_data(source=name, path=path), "valid", 0)
