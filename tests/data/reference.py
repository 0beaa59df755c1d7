"""Encoding and packing written plainly, for tests to compare the training stream with."""

from collections.abc import Iterable, Sequence

import numpy as np

from lfl_jax.data.examples import Example
from lfl_jax.data.formatting import find_template, token_ids
from lfl_jax.data.packing import FEATURES, Batch, PackingStats, empty_rows
from lfl_jax.data.tokenized import Encoded, RowFormat, TokenizedExample, encode
from lfl_jax.text.tokenizer import Tokenizer


def tokenized(ids: Sequence[int], loss: Sequence[bool], name: str = "x") -> TokenizedExample:
    """An example of these ids."""
    return TokenizedExample(name, np.asarray(ids, np.int32), np.asarray(loss, bool))


def encode_example(
    example: Example,
    index: int,
    tokenizer: Tokenizer,
    *,
    template: str = "plain",
    seq_len: int | None = 64,
    too_long: str = "error",
    loss_turns: str = "all",
) -> Encoded | None:
    """Arrays of one example that no other one follows in its row."""
    ids, loss = token_ids(example, find_template(template, tokenizer), tokenizer, loss_turns)
    row_format = RowFormat(seq_len, too_long, eos_as_input=False)
    return encode(tokenized(ids, loss, example.id), index, row_format)


def pack_once(examples: Sequence[Encoded], *, seq_len: int, batch: int, pad_id: int) -> list[Batch]:
    """Every example exactly once, first-fit in the given order; empty rows fill the last batch."""
    rows = _first_fit([len(e["tokens"]) for e in examples], seq_len)
    n_rows = -(-(1 + max(rows, default=-1)) // batch) * batch
    packed = empty_rows(n_rows, seq_len, pad_id)
    used, segments = np.zeros(n_rows, int), np.zeros(n_rows, int)
    for row, example in zip(rows, examples, strict=True):
        slots = slice(used[row], used[row] + len(example["tokens"]))
        segments[row] += 1
        for name in FEATURES:
            packed[name][row, slots] = example[name]
        packed["segment_ids"][row, slots] = segments[row]
        packed["positions"][row, slots] = np.arange(slots.stop - slots.start)
        used[row] = slots.stop
    return [{k: v[i : i + batch] for k, v in packed.items()} for i in range(0, n_rows, batch)]


def _first_fit(lengths: Sequence[int], seq_len: int) -> list[int]:
    """Row of each example, when each goes to the first row with room."""
    free, rows = [], []
    for length in lengths:
        assert length <= seq_len
        row = next((i for i, room in enumerate(free) if room >= length), len(free))
        if row == len(free):
            free.append(seq_len)
        free[row] -= length
        rows.append(row)
    return rows


def packing_stats(batches: Iterable[Batch]) -> PackingStats:
    """Counts over batches; rows without a token do not count."""
    rows = slots = tokens = targets = 0
    for batch in batches:
        filled = batch["segment_ids"].any(axis=1)
        rows += int(filled.sum())
        slots += int(filled.sum()) * batch["tokens"].shape[1]
        tokens += int((batch["segment_ids"] > 0).sum())
        targets += int((batch["weights"] > 0).sum())
    return PackingStats(rows, slots, tokens, targets)
