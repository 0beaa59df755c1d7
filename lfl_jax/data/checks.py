"""What is doubtful about a run's data although it trains: lines to warn with, before anything is loaded."""

from collections.abc import Iterator

from lfl_jax.config import DataConfig
from lfl_jax.data.formatting import find_template
from lfl_jax.data.loader import RowEstimate
from lfl_jax.data.sources import Source
from lfl_jax.text.chat import Piece
from lfl_jax.text.tokenizers import Tokenizer

FIRST = 20  # examples that are rendered to see which special tokens a template writes


def doubts(
    source: Source, tokenizer: Tokenizer, data: DataConfig, estimate: RowEstimate, positions: int
) -> Iterator[str]:
    """Lines about special tokens that the tokenizer lacks, ends that differ, and rows beyond the model's positions."""
    template = find_template(data.template, tokenizer)
    examples = [source.examples[i] for i in range(min(FIRST, len(source.examples)))]
    rendered = [template.render_turns(e.conversation) for e in examples if not e.is_document]
    text = "".join(piece for pieces in rendered for piece, _ in pieces)
    missing = [m for m in template.markers if m in text and len(tokenizer.encode_continuation(m)) != 1]
    if missing:
        yield (
            f"template {template.name!r} writes {' and '.join(missing)}, which this tokenizer has not as tokens and"
            f" spells out, and an answer ends with {tokenizer.eos!r}; plain and alpaca need no such tokens"
        )
    end = template.end if template.end in text else _own_end(rendered, [e.response for e in examples], template.name)
    if end and not missing and end != tokenizer.eos:
        yield (
            f"template {template.name!r} ends a turn with {end!r}, but an answer is trained to end with this"
            f" tokenizer's EOS, {tokenizer.eos!r}; to end both alike, set config.data.end_token={end!r}"
        )
    yield from _beyond(data, estimate, positions)


def _own_end(rendered: list[list[Piece]], responses: list[str], name: str) -> str:
    """What a tokenizer's own template writes after an answer beside EOS; "" for nothing, or another template."""
    if name != "tokenizer" or not rendered:
        return ""
    _, content, tail = rendered[0][-1][0].rpartition(responses[0].strip())
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
