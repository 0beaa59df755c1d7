"""Text to replay: real prose, none of which the forgetting test reads, and a refusal where it
would."""

import dataclasses
import gzip
import importlib
import json

import pytest
from lfl_jax.configs import math_ift

from lfl_jax import assets, train, train_setup
from lfl_jax.assets import cache
from lfl_jax.config import Config
from lfl_jax.data import checks, wikipedia_paragraphs
from lfl_jax.data.decontaminate import overlaps
from lfl_jax.data.examples import Example
from lfl_jax.data.sources import open_source
from lfl_jax.errors import UserError
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import perplexity


@pytest.fixture
def squad(tmp_path, monkeypatch):
    """A cache with questions about ten paragraphs of five articles, two questions each."""
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))
    staged = tmp_path / "cache" / "staged"
    staged.mkdir(parents=True)
    rows = []
    for i in range(20):
        text = f"Paragraph {i // 2},\nof words: a colon."
        query = f"Title: Article_{i // 4}\nBackground: {text}\nQuestion: What {i}?\nAnswer:"
        doc = {"title": f"Article_{i // 4}", "query": query}
        rows += [{"doc": doc, "idx": idx, "doc_id": i} for idx in (0, 1)]
    with gzip.open(staged / "requests.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    cache.install(staged, importlib.import_module("lfl_jax.assets.manifest").item("squad"))
    wikipedia_paragraphs.paragraphs.cache_clear()
    yield
    wikipedia_paragraphs.paragraphs.cache_clear()


def opened(make_data, split="train", **fields):
    data = make_data(**{"source": "wikipedia_paragraphs", **fields})
    return open_source(data, split, 0)


def test_paragraphs_are_documents_once_each_and_articles_stay_in_one_split(squad, make_data):
    splits = {split: opened(make_data, split).examples for split in ("train", "dev", "test")}
    texts = [e.response for examples in splits.values() for e in examples]
    assert sorted(texts) == [f"Paragraph {i},\nof words: a colon." for i in range(10)]
    assert {len(examples) for examples in splits.values()} == {6, 2}
    articles = [{e.cluster for e in examples} for examples in splits.values()]
    assert len(set.union(*articles)) == sum(map(len, articles)) == 5
    assert all(e.is_document for examples in splits.values() for e in examples)


def test_the_source_is_real_text_under_its_licence(squad, make_data):
    source = opened(make_data)
    assert (source.licence, source.flag, source.seed) == ("CC-BY-SA-4.0", "", None)
    assert len(source.sha256) == 64 and source.description.startswith("6 paragraphs of Wikipedia")
    replayed = opened(make_data, source="word_problems:0.99,wikipedia_paragraphs:0.01", size=40)
    assert replayed.name == "word_problems:99.0%,wikipedia_paragraphs:1.0%"
    assert replayed.flag == "SYNTHETIC"


def test_text_that_forgetting_is_measured_on_may_not_be_trained_on(squad, make_data):
    source = opened(make_data, source="word_problems:0.5,wikipedia_paragraphs:0.5", size=4)
    checks.require_unseen(lambda: ["Something else."], source)
    with pytest.raises(UserError) as refused:
        checks.require_unseen(lambda: ["Else.", " Paragraph 3,\nof words: a colon.\n"], source)
    assert "1 of the 2 texts that forgetting is measured on are trained on (Article_1:3" in str(
        refused.value
    )


def test_texts_are_read_only_where_they_could_be_trained_on(make_source):
    def never():
        raise AssertionError("read")

    checks.require_unseen(never, make_source(5))
    document = dataclasses.replace(make_source(examples=[Example("", "x", "a", "a")]))
    checks.require_unseen(never, dataclasses.replace(document, synthetic=True))
    with pytest.raises(AssertionError, match="read"):
        checks.require_unseen(never, document)


def test_a_run_on_its_own_forgetting_test_is_refused(tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"Text {i} of many."}) + "\n" for i in range(60)))
    c = math_ift.get_config("smoke")
    c.data.source, c.data.path, c.eval.source_text = "documents", str(text), str(text)
    c.eval.tasks, c.eval.every_tasks = ("source_nll:4",), ()
    with pytest.raises(UserError, match="58 of the 60 texts that forgetting is measured on"):
        train_setup.prepare(train.Run(Config.from_dict(c), tmp_path / "run", quiet=True))
    # Held-out targets of these documents are no mistake.
    c.eval.tasks = ("target_nll:4",)
    train_setup.prepare(train.Run(Config.from_dict(c), tmp_path / "run", quiet=True))


@pytest.mark.skipif(
    not (assets.is_cached("squad") and assets.is_cached("boolq")), reason="fetch squad boolq"
)
def test_the_fetched_paragraphs_share_nothing_with_the_forgetting_test():
    wikipedia_paragraphs.paragraphs.cache_clear()
    texts = [text for _, text in wikipedia_paragraphs.paragraphs()]
    assert len(texts) == 803
    tested = {"source_nll": {d.id: d.text for d in perplexity.documents(Inputs())}}
    assert overlaps(texts, tested) == {"source_nll": {}}
