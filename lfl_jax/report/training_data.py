"""The training data of a config on a terminal: packed rows, and how they are filled."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from lfl_jax import config as configs
from lfl_jax import notices
from lfl_jax.data import checks
from lfl_jax.data.examples import Source
from lfl_jax.data.loader import training_batches
from lfl_jax.data.packing import Batch, check_loss_mask
from lfl_jax.data.row_estimate import RowEstimate, estimate_rows
from lfl_jax.data.sources import open_source
from lfl_jax.data.streams import Streams
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import printable
from lfl_jax.text.tokenizers import Tokenizer

LOSS, CONTEXT = "bold green", "bright_black"
EXAMPLE_OVERLAPS = 3  # printed for each task
NO_LIMIT = sys.maxsize


def segments(batch: Batch, row: int) -> Iterator[tuple[int, list[int], list[bool]]]:
    """(example id, token ids with the last target, which of these carry loss) of each segment."""
    for segment in range(1, int(batch["segment_ids"][row].max()) + 1):
        slots = batch["segment_ids"][row] == segment
        tokens, targets = batch["tokens"][row, slots], batch["targets"][row, slots]
        # A weight belongs to its target, which is the next token: one place further on.
        loss = [False, *(batch["weights"][row, slots] > 0).tolist()]
        ids = [*tokens.tolist(), int(targets[-1])]
        if not loss[-1]:  # the last token has no target: an EOS that another example sees
            ids, loss = ids[:-1], loss[:-1]
        yield int(batch["example_ids"][row, slots][0]), ids, loss


def render_batch(batch: Batch, tokenizer: Tokenizer, console: Console) -> None:
    """Print every row of a batch, segment by segment, with the tokens that carry loss marked."""
    for row, slots in enumerate(batch["segment_ids"]):
        filled = f"row {row}: {int((slots > 0).sum())} of {len(slots)} slots filled"
        console.print(Text(filled, style="bold"), soft_wrap=True)
        for number, (example, ids, loss) in enumerate(segments(batch, row), 1):
            header = (
                f"  segment {number}: example {example}, {len(ids)} tokens, {sum(loss)} carry loss"
            )
            console.print(Text(header, style="cyan"), soft_wrap=True)
            shade = " underline" if number % 2 == 0 else ""
            pieces = [printable(piece) for piece in tokenizer.pieces(ids)]
            console.print(_spans(pieces, loss, shade, console.is_terminal), soft_wrap=True)


def _spans(pieces: Sequence[str], loss: Sequence[bool], shade: str, colour: bool) -> Text:
    """The pieces as text, in spans that carry loss or do not."""
    text = Text()
    pairs = zip(pieces, loss, strict=True)
    for carries_loss, span in itertools.groupby(pairs, key=lambda pair: pair[1]):
        span_text = "".join(piece for piece, _ in span)
        marked = f"«{span_text}»" if carries_loss and not colour else span_text
        text.append(marked, style=(LOSS if carries_loss else CONTEXT) + shade)
    return text


def render_summary(
    source: Source, estimate: RowEstimate, data: configs.DataConfig, console: Console
) -> None:
    """Print where the data come from and how they fill their rows."""
    stats, about = estimate.stats, "" if estimate.exact else ", estimated from a sample"
    flag = f"{source.flag}, " if source.flag else ""
    # The flag says these already.
    description = source.description.removeprefix("synthetic: ")
    description = description.removeprefix(f"a stand-in for {source.stand_in_for}: ")
    seed = "" if source.seed is None else f", seed {source.seed}"
    lines = {
        "source": f"{source.name}, split {source.split}: {flag}{description}",
        "licence": f"{source.licence}; SHA-256 {source.sha256 or 'not known'}{seed}",
        "examples": f"{estimate.examples}; {estimate.skipped} skipped, {estimate.truncated}"
        f" cut{about}",
        "rows": f"{stats.rows} of {data.seq_len} tokens an epoch{about}",
        "packing": f"{stats.efficiency:.1%} of the slots hold a token",
        "loss mask": f"{stats.mask_fraction:.1%} of the tokens, {stats.targets / stats.rows:.1f} a"
        " row",
        "longest": f"{estimate.longest} tokens (example {estimate.longest_id})",
    }
    lines |= _file_lines(source)
    for name, value in lines.items():
        console.print(Text(f"{name:<10}", style="bold") + Text(printable(value)), soft_wrap=True)


def _file_lines(source: Source) -> dict[str, str]:
    """The columns in use, the ones left out, and the held-out files, as far as there are any."""
    used, _, left_out = source.columns.partition("; left out: ")
    lines = {"columns": used, "left out": left_out}
    for file in source.held_out:
        lines[f"{file.split} file"] = f"{file.path}; SHA-256 {file.sha256}"
    return {name: text for name, text in lines.items() if text}


def inspect(
    config: configs.Config,
    tokenizer: Tokenizer,
    rows: int,
    console: Console,
    positions: int = NO_LIMIT,
) -> None:
    """Print `rows` packed rows and a summary of the training source.

    UserError for a mask that is all 0 or all 1. positions: of the model, beyond which rows are
    warned of.
    """
    source = open_source(config.data, "train", config.seed.data)
    tokenized = TokenizedSource(source, tokenizer, config.data)
    estimate = estimate_rows(tokenized, seed=config.seed.data)
    # With a wrong mask a run trains all the same, and its loss looks plausible.
    check_loss_mask(estimate.stats, documents=source.examples[0].is_document)
    if rows:
        # A run's first rows are those of its first stream.
        streams = Streams(config.data.streams)
        options = {"batch": rows * streams.count, "seed": config.seed.data, "streams": streams}
        batches = training_batches(tokenized, **options)
        first = {name: values[:rows] for name, values in next(batches).items()}
        render_batch(first, tokenizer, console)
        batches.close()
    render_summary(source, estimate, config.data, console)
    for text in checks.doubts(tokenized, estimate, positions):
        notices.warn(text)


def render_contamination(report: dict[str, Any], console: Console) -> None:
    """Print, for every task, how many items the source overlaps, and the first of them."""
    for task, about in report["tasks"].items():
        short = f", {about['too_short']} too short to tell" if about["too_short"] else ""
        line = (
            f"{about['overlapping']} of {about['items']} items share {report['n']} words with the"
            f" source{short}"
        )
        console.print(Text(f"{task:<14}", style="bold") + Text(line), soft_wrap=True)
        for name, gram in itertools.islice(about["ngrams"].items(), EXAMPLE_OVERLAPS):
            console.print(Text(printable(f"  {name}: {gram}"), style=CONTEXT), soft_wrap=True)
