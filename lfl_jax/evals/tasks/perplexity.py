"""Negative log-likelihood of text: of held-out training targets, and of general text.

`target_nll` scores the responses of the source's held-out examples after their prompts, EOS
included; in the plain prompt format:

    Question: Daniela collects 20 cards on Monday and 18 on Tuesday. How many cards is that in
    total?
    Answer: 20 + 18 = 38          <- scored, from " 20" on
    #### 38<eos>

`source_nll` scores general text, which the base model has learned and finetuning may make it
forget. By default that is the 2938 Wikipedia paragraphs of BoolQ (Clark et al. 2019, arXiv
1905.10044; validation split, CC-BY-SA-3.0 licence), each once; config.eval.source_text names
another. The first begins:

    All biomass goes through at least some of these steps: it needs to be grown, collected, dried,
    fermented, distilled, and burned.

Metrics: nll (main) is in nats per token and perplexity its exponential; bits_per_byte can be
compared between tokenizers (of targets, EOS counts, though it has no byte). For general text there
are also byte_perplexity and word_perplexity, as lm-evaluation-harness defines them.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from lfl_jax.data.examples import Example
from lfl_jax.data.formatting import document_ids, prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.evals.requests import Request, prefix_id, rolling, truncate
from lfl_jax.evals.task import Inputs, Likelihood, Record, Task
from lfl_jax.text.chat import Template
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
    """`inputs.source_text`, or the paragraphs of BoolQ.

    These are general prose that neither the scored questions nor the training source contain.
    """
    texts = inputs.source_text
    if texts is None:
        # dict.fromkeys: several questions ask about one paragraph.
        texts = list(dict.fromkeys(doc["passage"] for doc in inputs.docs("boolq")))
    return [Document(str(i), str(i), text) for i, text in enumerate(texts)]


def targets(inputs: Inputs) -> list[Target]:
    """The held-out examples, in the prompt format of training.

    UserError for worked examples before documents, which ask nothing.
    """
    worked, found = inputs.worked(), []
    for e in inputs.target:
        prompt, response = _prompt_and_response(e, inputs.template)
        if worked and not prompt:
            raise UserError("examples before a question: documents have no questions")
        found.append(Target(e.id, e.cluster, worked + prompt, response))
    return found


def _prompt_and_response(example: Example, template: Template) -> tuple[str, str]:
    if example.is_document:
        return "", example.response
    return template.prompt_and_response(example.conversation)


def document_requests(document: Document, tokenizer: Tokenizer, length: int) -> list[Request]:
    """Windows over the text; BOS, or EOS without one, comes before its first token."""
    return rolling(prompt_ids(document.text, tokenizer), prefix_id(tokenizer), length)


def target_requests(target: Target, tokenizer: Tokenizer, length: int) -> list[Request]:
    """The response after its prompt, with the ids it has in training.

    A document has no prompt and is scored in windows.
    """
    if not target.prompt:
        ids, prefix = document_ids(target.response, tokenizer), prefix_id(tokenizer)
        # Training may put BOS first; `rolling` puts it there itself.
        return rolling(ids[ids[0] == prefix :], prefix, length)
    # The response is encoded apart from its prompt, as in training, so no token spans the border.
    response = (*tokenizer.encode_continuation(target.response), tokenizer.eos_id)
    return [truncate(Request(tuple(prompt_ids(target.prompt, tokenizer)), response), length)]


def document_record(document: Document, scored: list[Scored]) -> Record:
    """nll of the whole text in nats, and its size in tokens, words and UTF-8 bytes."""
    words = len(re.split(r"\s+", document.text))  # as the harness counts them
    return _record(document, scored) | {"words": words, "bytes": len(document.text.encode("utf-8"))}


def target_record(target: Target, scored: list[Scored]) -> Record:
    """nll of the response in nats, and its size in tokens (EOS is one) and UTF-8 bytes."""
    size = len(target.response.encode("utf-8"))
    return _record(target, scored) | {"truncated": scored[0].truncated, "bytes": size}


def _record(item: Document | Target, scored: list[Scored]) -> Record:
    # A long text is scored in several windows, each token in one of them.
    nll = -sum(s.ll for s in scored)
    tokens = sum(s.tokens for s in scored)
    return {"id": item.id, "cluster": item.cluster, "nll": nll, "tokens": tokens}


def details(inputs: Inputs) -> dict[str, Any]:
    """Where the text comes from."""
    return {"source_text": "boolq" if inputs.source_text is None else "given"}


def _bits(record: Record) -> float:
    return record["nll"] / math.log(2)


def _bytes(record: Record) -> int | None:
    # Targets of version 1 have no size in bytes; their runs are still read.
    return record.get("bytes")


# All are sums over tokens, bytes or words of the texts together, so long texts count for more.
NLL = Metric("nll", "nll", "nats/token", weight="tokens", higher_is_better=False, **QUANTITY)
PERPLEXITY = replace(NLL, name="perplexity", label="perplexity", exponential=True, in_table=False)
BITS_PER_BYTE = replace(
    NLL, name="bits_per_byte", field=_bits, weight=_bytes, label="bits/byte", in_table=False
)
TARGET_METRICS = (NLL, PERPLEXITY, BITS_PER_BYTE)

GENERAL_NLL = replace(NLL, section="forgetting")
GENERAL_PERPLEXITY = replace(PERPLEXITY, section="forgetting")
SOURCE_METRICS = (
    GENERAL_NLL,
    GENERAL_PERPLEXITY,
    replace(BITS_PER_BYTE, section="forgetting"),
    replace(GENERAL_PERPLEXITY, name="byte_perplexity", weight="bytes"),
    replace(GENERAL_PERPLEXITY, name="word_perplexity", weight="words"),
)

SOURCE_NLL = Task(
    name="source_nll",
    version=1,
    label="general text",
    items=documents,
    method=Likelihood(document_requests, document_record),
    metrics=SOURCE_METRICS,
    details=details,
)
TARGET_NLL = Task(
    name="target_nll",
    version=2,
    label="held-out targets",
    items=targets,
    method=Likelihood(target_requests, target_record),
    metrics=TARGET_METRICS,
    interleaved=True,
    reads_source=True,
    takes_shots=True,
)
