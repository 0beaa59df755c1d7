"""Doubts about a run's data although it trains: lines to warn with before anything is loaded."""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lfl_jax.data.examples import Example, Source
from lfl_jax.data.row_estimate import MAX_EXACT, RowEstimate
from lfl_jax.data.rows import TableExamples
from lfl_jax.data.sources import open_source
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import UserError
from lfl_jax.text.chat import Piece

RENDERED_EXAMPLES = 20  # rendered to see which special tokens a template writes


def doubts(tokenized: TokenizedSource, estimate: RowEstimate, positions: int) -> Iterator[str]:
    """Lines about special tokens, ends of turns, row length, and held-out prompts in training.

    positions: of the model, beyond which it has learned nothing.
    """
    yield from template_doubts(tokenized)
    yield from _long_rows(tokenized, estimate, positions)
    for file in tokenized.source.held_out:
        held_out = open_source(tokenized.data, file.split, 0)
        yield from _held_out_in_training(tokenized.source, held_out)


def rarely_drawn(source: Source, draws: float) -> Iterator[str]:
    """Lines about parts of a mix of which a run of so many examples is expected to draw none."""
    for part, rate in zip(source.parts, source.rates, strict=True):
        # A round has its draws in random order, so that a short run may see none of a rare part.
        expected = draws * rate / sum(source.rates)
        if expected < 1:
            yield (
                f"the run trains on about {draws:.0f} examples, of which {part.name} is"
                f" {rate / sum(source.rates):.1%}: it may not be trained on at all"
            )


def require_unseen(texts: Callable[[], Iterable[str]], source: Source) -> None:
    """UserError where documents of the training source are texts that forgetting is measured on.

    texts: reads the latter; called where the source has documents that they could be.
    Generated sources are left out: they draw held-out text apart. So are sources of more than
    MAX_EXACT examples, of which contamination.json tells (eval.decontaminate).
    """
    parts = [part for part in source.parts or (source,) if not part.synthetic]
    small = [part.examples for part in parts if len(part.examples) <= MAX_EXACT]
    trained = {e.response.strip(): e.id for e in itertools.chain(*small) if e.is_document}
    if not trained:
        return
    tested = [text.strip() for text in texts()]
    shared = [trained[text] for text in tested if text in trained]
    if shared:
        raise UserError(
            f"{len(shared)} of the {len(tested)} texts that forgetting is measured on are trained"
            f" on ({shared[0]} for one): name another text with config.eval.source_text, or another"
            " config.data.source"
        )


def template_doubts(tokenized: TokenizedSource) -> Iterator[str]:
    """Lines about the special tokens around texts, against those of the tokenizer."""
    template, tokenizer = tokenized.template, tokenized.tokenizer
    examples = _first_examples(tokenized)
    rendered = [template.render_turns(e.conversation) for e in examples if not e.is_document]
    text = "".join(piece for piece, _ in itertools.chain(*rendered))

    # A marker of several tokens is learned as plain text, which no EOS id stops at.
    missing = [
        marker
        for marker in template.markers
        if marker in text and len(tokenizer.encode_continuation(marker)) != 1
    ]
    if missing:
        yield (
            f"template {template.name!r} writes {' and '.join(missing)}, which are no tokens of"
            f" this tokenizer: it spells them out, and ends an answer with {tokenizer.eos!r}; plain"
            " and alpaca need no such tokens"
        )

    # An answer is trained to end with EOS; another end of turn stops nothing at evaluation.
    end = template.end if template.end in text else ""
    if template.name == "tokenizer" and rendered:
        end = _end_of_own_template(rendered[0], examples[0].response)
    if end and not missing and end != tokenizer.eos:
        yield (
            f"template {template.name!r} ends a turn with {end!r}, but an answer is trained to end"
            f" with this tokenizer's EOS, {tokenizer.eos!r}; to end both alike, set"
            f" config.data.end_token={end!r}"
        )


def _first_examples(tokenized: TokenizedSource) -> list[Example]:
    n = min(RENDERED_EXAMPLES, len(tokenized))
    return [tokenized.source.examples[i] for i in range(n)]


def _end_of_own_template(pieces: list[Piece], response: str) -> str:
    """What a tokenizer's own template, which declares no end, writes after an answer but EOS."""
    _, answer, tail = pieces[-1][0].rpartition(response.strip())
    return tail.strip() if answer else ""


def _long_rows(tokenized: TokenizedSource, estimate: RowEstimate, positions: int) -> Iterator[str]:
    data = tokenized.data
    if data.seq_len <= positions:
        return
    restarts = data.cross_document == "isolate" and estimate.longest <= positions
    consequence = (
        f"each example has its own positions, and the longest, of {estimate.longest} tokens, fits"
        if restarts
        else "what it learns and says beyond them is not to be relied on"
    )
    yield (
        f"rows of {data.seq_len} tokens (data.seq_len) are longer than this model's {positions}"
        f" positions: {consequence}"
    )


def _held_out_in_training(source: Source, held_out: Source) -> Iterator[str]:
    """Held-out problems that training rows have, too; only tables of prompts know theirs."""
    train, test = source.examples, held_out.examples
    if isinstance(train, TableExamples) and isinstance(test, TableExamples):
        shared = int(np.isin(test.clusters, train.clusters).sum())
        if shared:
            yield (
                f"{shared} of {len(test)} prompts of {held_out.name} (data.{held_out.split}_path)"
                " are trained on, too"
            )
