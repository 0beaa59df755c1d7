"""Negative log-likelihood of text: held-out training targets, and general text from before
finetuning."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from lfl_jax.data.formatting import document_ids, prompt_ids
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.evals.requests import Request, prefix_id, rolling, truncate
from lfl_jax.evals.task import Inputs, Likelihood, Record, Task
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Document:
    """A text to score from its first token to its last."""

    id: str
    cluster: str
    text: str


@dataclass(frozen=True)
class Target:
    """A held-out training example in its template; the response and its EOS are scored."""

    id: str
    cluster: str
    prompt: str
    response: str


def documents(inputs: Inputs) -> list[Document]:
    """`inputs.source_text`, or the fetched default: the Wikipedia paragraphs that BoolQ asks about,
    each once.

    They are general prose that neither the scored questions nor the training source contain.
    """
    texts = inputs.source_text
    if texts is None:
        texts = list(dict.fromkeys(doc["passage"] for doc in inputs.docs("boolq")))
    return [Document(str(i), str(i), text) for i, text in enumerate(texts)]


def targets(inputs: Inputs) -> list[Target]:
    """The held-out examples, in the format the model is trained with."""
    rendered = [
        ("", example.response)
        if example.is_document
        else inputs.template.prompt_and_response(example.conversation)
        for example in inputs.target
    ]
    return [
        Target(e.id, e.cluster, *texts) for e, texts in zip(inputs.target, rendered, strict=True)
    ]


def document_requests(document: Document, tokenizer: Tokenizer, length: int) -> list[Request]:
    """Rolling windows over the text, BOS or EOS before its first token."""
    return rolling(prompt_ids(document.text, tokenizer), prefix_id(tokenizer), length)


def target_requests(target: Target, tokenizer: Tokenizer, length: int) -> list[Request]:
    """The response after its prompt, with the ids it has in training; a document, without prompt,
    in windows."""
    if not target.prompt:
        ids, prefix = document_ids(target.response, tokenizer), prefix_id(tokenizer)
        return rolling(ids[ids[0] == prefix :], prefix, length)
    response = (*tokenizer.encode_continuation(target.response), tokenizer.eos_id)
    return [truncate(Request(tuple(prompt_ids(target.prompt, tokenizer)), response), length)]


def document_record(document: Document, scored: list[Scored]) -> Record:
    """nll of the whole text in nats, and its size in tokens, words and UTF-8 bytes."""
    words, size = len(re.split(r"\s+", document.text)), len(document.text.encode("utf-8"))
    return _record(document, scored) | {"words": words, "bytes": size}


def target_record(target: Target, scored: list[Scored]) -> Record:
    """nll of the response in nats, and its size in tokens."""
    return _record(target, scored) | {"truncated": scored[0].truncated}


def details(inputs: Inputs) -> dict[str, Any]:
    """Which text."""
    return {"source_text": "boolq" if inputs.source_text is None else "given"}


def _record(item: Document | Target, scored: list[Scored]) -> Record:
    nll = -sum(s.ll for s in scored)
    tokens = sum(s.tokens for s in scored)
    return {"id": item.id, "cluster": item.cluster, "nll": nll, "tokens": tokens}


def _bits(record: Record) -> float:
    return record["nll"] / math.log(2)


NLL = Metric("nll", "nll", "nats/token", weight="tokens", higher_is_better=False, **QUANTITY)
PERPLEXITY = replace(NLL, name="perplexity", label="perplexity", exponential=True, in_table=False)
SOURCE = replace(NLL, section="forgetting")
# The harness's, which can be compared between tokenizers.
PER_BYTE = replace(
    SOURCE, name="bits_per_byte", field=_bits, weight="bytes", label="bits/byte", in_table=False
)
BYTE_PERPLEXITY = replace(PERPLEXITY, name="byte_perplexity", weight="bytes", section="forgetting")
WORD_PERPLEXITY = replace(PERPLEXITY, name="word_perplexity", weight="words", section="forgetting")

SOURCE_NLL = Task(
    name="source_nll",
    version=1,
    label="general text",
    items=documents,
    method=Likelihood(document_requests, document_record),
    metrics=(
        SOURCE,
        replace(PERPLEXITY, section="forgetting"),
        PER_BYTE,
        BYTE_PERPLEXITY,
        WORD_PERPLEXITY,
    ),
    details=details,
)
TARGET_NLL = Task(
    name="target_nll",
    version=1,
    label="held-out targets",
    items=targets,
    method=Likelihood(target_requests, target_record),
    metrics=(NLL, PERPLEXITY),
    interleaved=True,
    reads_source=True,
)
