"""How many rows a source fills, and how well: known before training, to turn epochs into steps."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lfl_jax.config import DataConfig
from lfl_jax.data.loader import shuffled, training_order
from lfl_jax.data.packers import packing_overflow_error
from lfl_jax.data.packing import PackingStats, concat_rows, first_fit_rows, ratio_rows
from lfl_jax.data.tokenized import TokenizedSource

MAX_EXACT = 8192  # examples up to which a source is tokenised completely,
SAMPLE_SIZE = 2048  # and examples that are drawn from a larger one


@dataclass(frozen=True)
class RowEstimate:
    """The size of a source once packed; estimated from a sample unless `exact`."""

    stats: PackingStats  # of the requested number of epochs
    examples: int  # of the source
    skipped: int  # of one epoch: too long, and left out
    truncated: int  # of one epoch: too long, and cut
    longest: int  # tokens of the longest measured example, before cutting
    longest_id: str
    exact: bool


@dataclass(frozen=True)
class Lengths:
    """Tokens of each measured example."""

    full: Int[np.ndarray, " N"]  # before cutting
    packed: Int[np.ndarray, " N"]  # as it is trained on; 0: skipped
    targets: Int[np.ndarray, " N"]  # with loss

    @property
    def skipped(self) -> int:
        """The number of examples that are left out."""
        return int((self.packed == 0).sum())

    @property
    def truncated(self) -> int:
        """The number of examples that lose their end."""
        return int(((self.packed > 0) & (self.packed < self.full)).sum())


@dataclass(frozen=True)
class Training:
    """What is packed: the measured lengths, in training order, `epochs` times.

    scale: examples of the source for each one measured.
    """

    lengths: Lengths
    order: Int[np.ndarray, " K"]  # indices into lengths, one per draw
    epochs: int | float
    scale: float

    def total(self, tokens: Int[np.ndarray, " N"]) -> int:
        """Tokens in all draws, scaled to the source."""
        return round(self.scale * tokens[self.order].sum())


def estimate_rows(tokenized: TokenizedSource, *, seed: int, epochs: int | float = 1) -> RowEstimate:
    """Rows that `epochs` passes over the source fill, to turn epochs into steps: rows / batch.

    Sources of up to MAX_EXACT examples are measured completely, in the order of training, larger
    ones from SAMPLE_SIZE examples. With too_long=error, raises UserError for such an example among
    these; raises UserError, too, where no token of them carries loss.
    """
    source, data = tokenized.source, tokenized.data
    indices, exact = _measured_indices(tokenized, seed)
    lengths = _measure(tokenized, indices)
    if not lengths.targets.any():
        raise tokenized.empty_loss_mask_error(source.epoch)

    order = shuffled(range(len(indices)), seed, None)
    draws = np.array([order[i] for i in range(round(epochs * len(indices)))], int)
    training = Training(lengths, draws, epochs, scale=source.epoch / len(indices))
    longest = int(lengths.full.argmax())
    return RowEstimate(
        _packing_stats(training, data),
        examples=source.epoch,
        skipped=round(training.scale * lengths.skipped),
        truncated=round(training.scale * lengths.truncated),
        longest=int(lengths.full[longest]),
        longest_id=tokenized.tokens(int(indices[longest])).name,
        exact=exact,
    )


def _measured_indices(tokenized: TokenizedSource, seed: int) -> tuple[Int[np.ndarray, " N"], bool]:
    """The examples to measure, and whether these are exactly one epoch."""
    source = tokenized.source
    size, exact = source.epoch, source.epoch <= MAX_EXACT
    if source.parts:
        # An epoch of a mix holds its sources at their rates: the first draws of the stream do.
        order = training_order(source, seed, None)
        return np.array([order[k] for k in range(size if exact else SAMPLE_SIZE)]), exact
    if exact:
        return np.arange(size), exact
    sample = np.random.default_rng(seed).choice(size, SAMPLE_SIZE, replace=False)
    return np.sort(sample), exact


def _measure(tokenized: TokenizedSource, indices: Int[np.ndarray, " N"]) -> Lengths:
    rows = np.zeros((len(indices), 3), np.int64)
    for row, index in zip(rows, indices.tolist(), strict=True):
        row[0] = tokenized.row_format.input_tokens(tokenized.tokens(index))
        encoded = tokenized.encode(index)
        if encoded is not None:
            row[1:] = len(encoded["tokens"]), encoded["weights"].sum()
    return Lengths(*rows.T)


def _packing_stats(training: Training, data: DataConfig) -> PackingStats:
    count, lengths = ROW_COUNTS[data.packing], training.lengths
    streams = (
        dataclasses.replace(training, order=training.order[stream :: data.streams])
        for stream in range(data.streams)
    )
    # A batch has as many rows of every stream: the longest stream says how many there are.
    rows = data.streams * max(count(stream, data) for stream in streams)
    tokens, targets = training.total(lengths.packed), training.total(lengths.targets)
    return PackingStats(rows, rows * data.seq_len, tokens, targets)


def _first_fit(training: Training, data: DataConfig) -> int:
    lengths = training.lengths.packed[training.order]
    rows = first_fit_rows(lengths[lengths > 0].tolist(), data.seq_len, data.pack_bins)
    return round(training.scale * rows)


def _concat(training: Training, data: DataConfig) -> int:
    lengths = training.lengths.packed[training.order]
    return round(training.scale * concat_rows(lengths.tolist(), data.seq_len))


def _ratio(training: Training, data: DataConfig) -> int:
    """By the number of examples alone; UserError when these are too long for the rows."""
    usable = training.lengths.packed[training.lengths.packed > 0]
    if usable.mean() * data.packing_ratio > data.seq_len:
        raise packing_overflow_error(data.packing_ratio, data.seq_len)
    examples = round(training.scale * len(usable) / data.streams)
    return ratio_rows(
        examples, bins=data.pack_bins, ratio=data.packing_ratio, epochs=training.epochs
    )


ROW_COUNTS: dict[str, Callable[[Training, DataConfig], int]] = {
    "first_fit": _first_fit,
    "concat": _concat,
    "ratio": _ratio,
}
