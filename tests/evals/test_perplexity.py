"""Negative log-likelihood: what is scored of targets and of general text, and its metrics."""

import dataclasses

import numpy as np
import pytest

from lfl_jax.data import formatting
from lfl_jax.data.examples import Example
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.tasks import perplexity
from lfl_jax.text.chat import TEMPLATES


@pytest.mark.parametrize("template", ["plain", "alpaca"])
@pytest.mark.parametrize("add_bos", [False, True])
def test_target_has_the_ids_it_has_in_training(inputs, tokenizer, template, add_bos):
    tokenizer = dataclasses.replace(tokenizer, add_bos=add_bos)
    example = Example("seen 0?", "So.\n#### 0", "seen-0", "template-0")
    made = dataclasses.replace(inputs, target=[example], template=TEMPLATES[template])
    (request,) = perplexity.target_requests(perplexity.targets(made)[0], tokenizer, 100)
    ids, loss = formatting.token_ids(example, TEMPLATES[template], tokenizer)
    n_prompt = loss.index(True)
    assert (request.context, request.continuation) == (tuple(ids[:n_prompt]), tuple(ids[n_prompt:]))
    assert request.continuation[-1] == tokenizer.eos_id


def test_source_text_is_given_or_the_fetched_passages_once(inputs):
    given = perplexity.documents(dataclasses.replace(inputs, source_text=["a", "b"]))
    assert [(d.id, d.text) for d in given] == [("0", "a"), ("1", "b")]
    fetched = dataclasses.replace(
        inputs, docs=lambda name: {"boolq": [{"passage": "x"}, {"passage": "x"}]}[name]
    )
    assert [d.text for d in perplexity.documents(fetched)] == ["x"]


def test_perplexity_of_text_per_token_byte_and_word():
    documents = [
        perplexity.Document("0", "0", "zwölf Äpfel"),
        perplexity.Document("1", "1", "a b c"),
    ]
    records = [
        perplexity.document_record(
            documents[0], [Scored(-3.0, 2, False, False), Scored(-4.0, 3, False, False)]
        ),
        perplexity.document_record(documents[1], [Scored(-5.0, 5, False, False)]),
    ]
    assert [(r["nll"], r["tokens"], r["words"], r["bytes"]) for r in records] == [
        (7.0, 5, 2, 13),
        (5.0, 5, 3, 5),
    ]
    found = perplexity.SOURCE_NLL.measure(records)
    assert {name: each.estimate.mean for name, each in found.items()} == {
        "nll": pytest.approx(12 / 10),
        "perplexity": pytest.approx(np.exp(12 / 10)),
        "bits_per_byte": pytest.approx(12 / 18 / np.log(2)),
        "byte_perplexity": pytest.approx(np.exp(12 / 18)),
        "word_perplexity": pytest.approx(np.exp(12 / 5)),
    }


def test_bits_per_byte_of_targets():
    target = perplexity.Target("0", "0", "Q:", " zwölf")
    record = perplexity.target_record(target, [Scored(-7.0, 3, False, False)])
    found = perplexity.TARGET_NLL.measure([record])
    assert found["bits_per_byte"].estimate.mean == pytest.approx(7 / np.log(2) / 7)
    # A record of version 1, without bytes, has the other metrics.
    del record["bytes"]
    assert set(perplexity.TARGET_NLL.measure([record])) == {"nll", "perplexity"}
