"""What is doubtful about a run's data although it trains: lines to warn with, before anything is
loaded."""

from collections.abc import Iterator

import numpy as np

from lfl_jax.config import DataConfig
from lfl_jax.data.examples import Source
from lfl_jax.data.formatting import find_template
from lfl_jax.data.loader import RowEstimate
from lfl_jax.data.rows import TableExamples
from lfl_jax.data.sources import open_source
from lfl_jax.text.chat import Piece, Template
from lfl_jax.text.tokenizers import Tokenizer

FIRST = 20  # examples that are rendered to see which special tokens a template writes


def doubts(
    source: Source, tokenizer: Tokenizer, data: DataConfig, estimate: RowEstimate, positions: int
) -> Iterator[str]:
    """Lines about special tokens that the tokenizer lacks, ends that differ, rows beyond the
    model's positions, and held-out prompts that are trained on.
    """
    template = find_template(data.template, tokenizer, data.code)
    examples = [source.examples[i] for i in range(min(FIRST, len(source.examples)))]
    rendered = [template.render_turns(e.conversation) for e in examples if not e.is_document]
    answer = examples[0].response if template.name == "tokenizer" else None
    yield from _special_tokens(template, rendered, answer, tokenizer)
    yield from _beyond(data, estimate, positions)
    for file in source.held_out:
        yield from _trained_on(source, open_source(data, file.split, 0))


def _special_tokens(
    template: Template, rendered: list[list[Piece]], answer: str | None, tokenizer: Tokenizer
) -> Iterator[str]:
    """Lines about what the template writes around texts, against the tokenizer; answer: of a
    tokenizer's own template, the first response, after which it writes its end.
    """
    text = "".join(piece for pieces in rendered for piece, _ in pieces)
    missing = [
        m for m in template.markers if m in text and len(tokenizer.encode_continuation(m)) != 1
    ]
    if missing:
        yield (
            f"template {template.name!r} writes {' and '.join(missing)}, which are no tokens of"
            " this tokenizer:"
            f" it spells them out, and ends an answer with {tokenizer.eos!r}; plain and alpaca need"
            " no such tokens"
        )
    end = template.end if template.end in text else ""
    if answer is not None and rendered:
        end = _own_end(rendered[0], answer)
    if end and not missing and end != tokenizer.eos:
        yield (
            f"template {template.name!r} ends a turn with {end!r}, but an answer is trained to end"
            " with this"
            f" tokenizer's EOS, {tokenizer.eos!r}; to end both alike, set"
            f" config.data.end_token={end!r}"
        )


def _own_end(pieces: list[Piece], response: str) -> str:
    """What a tokenizer's own template writes after an answer beside EOS; "" for nothing."""
    _, content, tail = pieces[-1][0].rpartition(response.strip())
    return tail.strip() if content else ""


def _beyond(data: DataConfig, estimate: RowEstimate, positions: int) -> Iterator[str]:
    if data.seq_len <= positions:
        return
    restarts = data.cross_document == "isolate" and estimate.longest <= positions
    what = (
        f"each example has its own positions, and the longest, of {estimate.longest} tokens, fits"
        if restarts
        else "what it learns and says beyond them is not to be relied on"
    )
    yield f"rows of {data.seq_len} tokens (data.seq_len) are longer than this model's {positions} positions: {what}"


def _trained_on(source: Source, held_out: Source) -> Iterator[str]:
    """Held-out problems that the training rows hold, too; only tables of prompts know theirs."""
    train, held = source.examples, held_out.examples
    if isinstance(train, TableExamples) and isinstance(held, TableExamples):
        both = int(np.isin(held.clusters, train.clusters).sum())
        if both:
            yield f"{both} of {len(held)} prompts of {held_out.name} (data.{held_out.split}_path) are trained on, too"
