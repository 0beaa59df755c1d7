"""Several examples in a row, kept apart by segment ids and restarted positions, or one segment when
they attend to each other.

A batch is a dict of (B, T) arrays: tokens, targets, segment_ids, positions, example_ids (int32) and
weights (float32). Segments count from 1 in each row; padding has segment 0, weight 0, example id -1
and the pad token.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lfl_jax.config import DataConfig
from lfl_jax.data.packers import BinPacker, Concat, ResumableIterator, empty_row, examples_per_group
from lfl_jax.errors import UserError

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]
FEATURES = ("tokens", "targets", "weights", "example_ids")  # of an encoded example


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


def check_loss_mask(stats: PackingStats, *, documents: bool = False) -> None:
    """Raise UserError when no token carries loss, or every one does, the prompts' included.

    documents: the source has no prompts, so that every token should.
    """
    if stats.targets == 0:
        raise UserError(
            f"the loss mask is all zero: none of {stats.tokens} tokens would be trained on"
        )
    if stats.targets == stats.tokens and not documents:
        raise UserError(
            f"the loss mask is all one: {stats.tokens} of {stats.tokens} tokens carry loss, prompts"
            " too"
        )


def empty_rows(n: int, seq_len: int, pad_id: int) -> Batch:
    """A batch of padding only."""
    return {name: np.tile(values, (n, 1)) for name, values in empty_row(seq_len, pad_id).items()}


def pack_stream(
    examples: "grain.IterDataset", data: DataConfig, *, batch: int, pad_id: int, seed: int
) -> "grain.IterDataset":
    """Encoded examples packed as config.data.packing says (PACKINGS), in batches.

    With cross_document="attend" the examples of a row are one segment with positions from 0.
    Empty rows complete the last batch of a finite dataset.
    """
    attend = data.cross_document == "attend"
    rows = PACKINGS[data.packing](examples, data, pad_id, seed)

    def finish(rows: Batch) -> Batch:
        # grain names segment ids and positions after the feature that they belong to.
        rows = {name.removeprefix("tokens_"): values for name, values in rows.items()}
        padding = empty_rows(batch - len(rows["tokens"]), data.seq_len, pad_id)
        filled = {name: np.concatenate([rows[name], padding[name]]) for name in padding}
        return _as_one_segment(filled) if attend else filled

    return rows.batch(batch, drop_remainder=False).map(finish)


def _as_one_segment(batch: Batch) -> Batch:
    filled = (batch["segment_ids"] > 0).astype(np.int32)
    positions = filled * np.arange(filled.shape[1], dtype=np.int32)
    return batch | {"segment_ids": filled, "positions": positions}


def _pack_first_fit(
    examples: "grain.IterDataset", data: DataConfig, pad_id: int, seed: int
) -> "grain.IterDataset":
    """grain's first-fit packing over `pack_bins` open rows.

    When an example fits none of them, all are emitted in random order: the first ones are fuller.
    """
    from grain.experimental import FirstFitPackIterDataset

    padding = {"tokens": pad_id, "targets": pad_id, "weights": 0.0, "example_ids": -1}
    return FirstFitPackIterDataset(
        examples,
        length_struct=dict.fromkeys(FEATURES, data.seq_len),
        padding_struct=padding,
        meta_features=FEATURES[1:],  # packed alike, without segment ids of their own
        num_packing_bins=data.pack_bins,
        shuffle_bins=True,
        seed=seed,
    )


def _pack_concat(
    examples: "grain.IterDataset", data: DataConfig, pad_id: int, seed: int
) -> "grain.IterDataset":
    """Rows cut from all examples concatenated (`packers.Concat`)."""
    return _packed(examples, lambda parent: Concat(parent, seq_len=data.seq_len, pad_id=pad_id))


def _pack_by_ratio(
    examples: "grain.IterDataset", data: DataConfig, pad_id: int, seed: int
) -> "grain.IterDataset":
    """llm-foundry's bin packing of `pack_bins` rows at a time (`packers.BinPacker`)."""

    def packer(parent: ResumableIterator) -> BinPacker:
        shape = {"rows": data.pack_bins, "seq_len": data.seq_len, "pad_id": pad_id}
        return BinPacker(parent, ratio=data.packing_ratio, **shape)

    return _packed(examples, packer)


def _packed(
    examples: "grain.IterDataset",
    make_packer: Callable[[ResumableIterator], ResumableIterator],
) -> "grain.IterDataset":
    """One of our packers as a grain dataset."""
    import grain

    class PackedIterator(grain.DatasetIterator):
        def __init__(self, parent: grain.DatasetIterator):
            super().__init__(parent)
            self._packer = make_packer(parent)

        def __next__(self) -> Batch:
            return next(self._packer)

        def get_state(self) -> dict[str, Any]:
            return self._packer.get_state()

        def set_state(self, state: dict[str, Any]) -> None:
            self._packer.set_state(state)

    class Packed(grain.IterDataset):
        def __iter__(self) -> PackedIterator:
            return PackedIterator(self._parent.__iter__())

    return Packed(examples)


PACKINGS: dict[str, Callable[..., "grain.IterDataset"]] = {
    "first_fit": _pack_first_fit,
    "concat": _pack_concat,
    "ratio": _pack_by_ratio,
}


def concat_rows(lengths: Iterable[int], seq_len: int) -> int:
    """Rows that "concat" makes of examples of these lengths."""
    return -(-sum(lengths) // seq_len)


def first_fit_rows(lengths: Iterable[int], seq_len: int, bins: int) -> int:
    """Rows that "first_fit" makes of examples of these lengths, in this order."""
    closed, used = 0, [0] * bins
    for length in lengths:
        row = next((i for i, tokens in enumerate(used) if tokens + length <= seq_len), None)
        if row is None:  # grain emits all open rows, the emptier ones too
            closed, used, row = closed + bins, [0] * bins, 0
        used[row] += length
    return closed + sum(tokens > 0 for tokens in used)


def ratio_rows(examples: int, *, bins: int, ratio: float, epochs: int | float = 1) -> int:
    """Rows that "ratio" makes of `epochs` passes over `examples` examples.

    As in llm-foundry, only complete groups of a pass count: the examples of an incomplete last
    group begin the next pass.
    """
    groups = max(1, examples // examples_per_group(bins, ratio))
    return int(epochs * groups) * bins
