"""Several examples in a row, kept apart by segment ids and restarted positions, or one segment when
they attend.

A batch is a dict of (B, T) arrays: tokens, targets, segment_ids, positions, example_ids (int32) and
weights (float32). Segments count from 1 in each row; padding has segment 0, weight 0, example id -1
and the pad token.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfl_jax.data.formatting import Encoded
from lfl_jax.data.packers import Concat, Ratio, blank_row, taken_of
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


def check_loss_mask(stats: PackingStats, *, documents: bool = False) -> None:
    """Raise UserError when no token carries loss, or when every one does, the prompts' too;
    documents have none."""
    if stats.targets == 0:
        raise UserError(
            f"the loss mask is all zero: none of {stats.tokens} tokens would be trained on"
        )
    if stats.targets == stats.tokens and not documents:
        raise UserError(
            f"the loss mask is all one: {stats.tokens} of {stats.tokens} tokens carry loss, prompts"
            " too"
        )


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
    return {name: np.tile(values, (n, 1)) for name, values in blank_row(seq_len, pad_id).items()}


def pack_stream(
    dataset,
    *,
    seq_len: int,
    bins: int,
    batch: int,
    pad_id: int,
    seed: int,
    packing: str = "first_fit",
    ratio: float = 1.0,
    attend: bool = False,
):
    """A grain IterDataset of encoded examples as one of batches, packed as config.data.packing says
    (PACKINGS).

    attend: the examples of a row see each other, as one segment with positions from 0.
    The last batch of a finite dataset is padded with empty rows.
    """
    shape = {"seq_len": seq_len, "pad_id": pad_id}
    rows = PACKINGS[packing](dataset, shape, bins=bins, ratio=ratio, seed=seed)

    def finish(rows: dict) -> Batch:
        rows = {name.removeprefix("tokens_"): value for name, value in rows.items()}
        missing = empty_rows(batch - len(rows["tokens"]), seq_len, pad_id)
        whole = {name: np.concatenate([rows[name], missing[name]]) for name in missing}
        return _attending(whole) if attend else whole

    return rows.batch(batch, drop_remainder=False).map(finish)


def _attending(batch: Batch) -> Batch:
    """The batch with one segment a row."""
    filled = (batch["segment_ids"] > 0).astype(np.int32)
    return batch | {
        "segment_ids": filled,
        "positions": filled * np.arange(filled.shape[1], dtype=np.int32),
    }


def _first_fit_rows(dataset, shape: dict[str, int], *, bins: int, ratio: float, seed: int):
    """Over `bins` open rows; when an example fits none they are all emitted, shuffled (the first
    are fuller)."""
    from grain.experimental import FirstFitPackIterDataset

    return FirstFitPackIterDataset(
        dataset,
        length_struct=dict.fromkeys(FEATURES, shape["seq_len"]),
        padding_struct={
            "tokens": shape["pad_id"],
            "targets": shape["pad_id"],
            "weights": 0.0,
            "example_ids": -1,
        },
        meta_features=FEATURES[1:],  # packed alike, without segment ids of their own
        num_packing_bins=bins,
        shuffle_bins=True,
        seed=seed,
    )


def _concat_rows(dataset, shape: dict[str, int], *, bins: int, ratio: float, seed: int):
    """`packers.Concat`."""
    return _packed(dataset, lambda parent: Concat(parent, **shape))


def _ratio_rows(dataset, shape: dict[str, int], *, bins: int, ratio: float, seed: int):
    """`packers.Ratio` with `bins` rows a group."""
    return _packed(dataset, lambda parent: Ratio(parent, rows=bins, ratio=ratio, **shape))


def _packed(dataset, make: Callable[[Any], Concat | Ratio]):
    """The dataset behind a packer of ours, as grain wants it."""
    import grain

    class Iterator(grain.DatasetIterator):
        def __init__(self, parent):
            super().__init__(parent)
            self._packer = make(parent)

        def __next__(self):
            return next(self._packer)

        def get_state(self):
            return self._packer.get_state()

        def set_state(self, state):
            self._packer.set_state(state)

    class Packed(grain.IterDataset):
        def __iter__(self):
            return Iterator(self._parent.__iter__())

    return Packed(dataset)


PACKINGS = {"first_fit": _first_fit_rows, "concat": _concat_rows, "ratio": _ratio_rows}


def count_rows(
    lengths: Iterable[int], *, seq_len: int, bins: int, packing: str = "first_fit"
) -> int:
    """How many rows `pack_stream` makes of examples of these lengths, packed first_fit or
    concat."""
    if packing == "concat":
        return -(-sum(lengths) // seq_len)
    rows, used = 0, [0] * bins
    for length in lengths:
        row = next((i for i, n in enumerate(used) if n + length <= seq_len), None)
        if row is None:
            rows, used, row = rows + bins, [0] * bins, 0
        used[row] += length
    return rows + sum(n > 0 for n in used)


def ratio_rows(examples: int, *, bins: int, ratio: float, epochs: int | float = 1) -> int:
    """Rows of `epochs` passes over so many examples, packed by ratio: as in llm-foundry, whole
    groups of a pass count.

    What an incomplete last group would take begins the next pass.
    """
    return int(epochs * max(1, examples // taken_of(bins, ratio))) * bins
