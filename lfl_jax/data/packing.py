"""Several examples in a row, kept apart by segment ids and restarted positions.

A batch is a dict of (B, T) arrays: tokens, targets, segment_ids, positions, example_ids (int32) and
weights (float32). Segments count from 1 in each row; padding has segment 0, weight 0, example id -1 and the
pad token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lfl_jax.data.formatting import Encoded
from lfl_jax.errors import UserError

Batch = dict[str, np.ndarray]
FEATURES = ("tokens", "targets", "weights", "example_ids")


@dataclass(frozen=True)
class PackingStats:
    """Token counts of packed rows."""

    rows: int
    slots: int  # tokens and padding
    tokens: int
    targets: int  # tokens that carry loss

    @property
    def efficiency(self) -> float:
        """Fraction of the slots that hold a token."""
        return self.tokens / self.slots

    @property
    def mask_fraction(self) -> float:
        """Fraction of the tokens that carry loss."""
        return self.targets / self.tokens


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


def check_loss_mask(stats: PackingStats) -> None:
    """Raise UserError when no token carries loss, or when every one does, the prompts' too."""
    if stats.targets == 0:
        raise UserError(f"the loss mask is all zero: none of {stats.tokens} tokens would be trained on")
    if stats.targets == stats.tokens:
        raise UserError(f"the loss mask is all one: {stats.tokens} of {stats.tokens} tokens carry loss, prompts too")


def pack_once(examples: Sequence[Encoded], *, seq_len: int, batch: int, pad_id: int) -> list[Batch]:
    """Every example exactly once, first-fit in the given order; empty rows fill the last batch."""
    rows = _first_fit([len(e["tokens"]) for e in examples], seq_len)
    n_rows = -(-(1 + max(rows, default=-1)) // batch) * batch
    packed = empty_rows(n_rows, seq_len, pad_id)
    used, segments = np.zeros(n_rows, int), np.zeros(n_rows, int)
    for row, example in zip(rows, examples, strict=True):
        here = slice(used[row], used[row] + len(example["tokens"]))
        segments[row] += 1
        for name in FEATURES:
            packed[name][row, here] = example[name]
        packed["segment_ids"][row, here] = segments[row]
        packed["positions"][row, here] = np.arange(here.stop - here.start)
        used[row] = here.stop
    return [{k: v[i : i + batch] for k, v in packed.items()} for i in range(0, n_rows, batch)]


def _first_fit(lengths: Sequence[int], seq_len: int) -> list[int]:
    """Row of each example, when each goes to the first row with room."""
    free, n_rows, rows = np.full(len(lengths), seq_len), 0, []
    for length in lengths:
        if length > seq_len:
            raise ValueError(f"an example of {length} tokens does not fit a row of {seq_len}")
        fits = free[:n_rows] >= length
        row = int(fits.argmax()) if fits.any() else n_rows
        free[row] -= length
        n_rows = max(n_rows, row + 1)
        rows.append(row)
    return rows


def empty_rows(n: int, seq_len: int, pad_id: int) -> Batch:
    """A batch of padding only."""
    fill = {
        "tokens": pad_id,
        "targets": pad_id,
        "weights": 0.0,
        "segment_ids": 0,
        "positions": 0,
        "example_ids": -1,
    }
    return {k: np.full((n, seq_len), v, np.float32 if k == "weights" else np.int32) for k, v in fill.items()}


def pack_stream(dataset, *, seq_len: int, bins: int, batch: int, pad_id: int, seed: int):
    """A grain IterDataset of encoded examples as one of batches: first-fit over `bins` open rows.

    When an example fits none of the open rows they are all emitted, in shuffled order (the first are fuller).
    The last batch of a finite dataset is padded with empty rows.
    """
    from grain.experimental import FirstFitPackIterDataset

    rows = FirstFitPackIterDataset(
        dataset,
        length_struct=dict.fromkeys(FEATURES, seq_len),
        padding_struct={"tokens": pad_id, "targets": pad_id, "weights": 0.0, "example_ids": -1},
        meta_features=FEATURES[1:],  # packed alike, without segment ids of their own
        num_packing_bins=bins,
        shuffle_bins=True,
        seed=seed,
    )

    def finish(rows: dict) -> Batch:
        rows = {name.removeprefix("tokens_"): value for name, value in rows.items()}
        missing = empty_rows(batch - len(rows["tokens"]), seq_len, pad_id)
        return {name: np.concatenate([rows[name], missing[name]]) for name in missing}

    return rows.batch(batch, drop_remainder=False).map(finish)


def count_rows(lengths: Iterable[int], *, seq_len: int, bins: int) -> int:
    """How many rows `pack_stream` makes of examples of these lengths."""
    rows, used = 0, [0] * bins
    for length in lengths:
        row = next((i for i, n in enumerate(used) if n + length <= seq_len), None)
        if row is None:
            rows, used, row = rows + bins, [0] * bins, 0
        used[row] += length
    return rows + sum(n > 0 for n in used)
