"""The stream of training batches (shuffled, packed, resumable) and its length."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lfl_jax.config import DataConfig
from lfl_jax.data.examples import Source
from lfl_jax.data.formatting import Encoded, arrays, encode, find_template, no_target, token_ids
from lfl_jax.data.mixes import Rounds
from lfl_jax.data.packers import too_many
from lfl_jax.data.packing import PackingStats, count_rows, pack_stream, ratio_rows
from lfl_jax.text.tokenizers import Tokenizer

COUNTED = 8192  # sources up to this many examples are tokenised whole to count their rows,
SAMPLED = 2048  # of larger ones this many


def training_batches(
    source: Source,
    tokenizer: Tokenizer,
    data: DataConfig,
    *,
    batch: int,
    seed: int,
    epochs: int | None = None,
    prefetch: int = 2,
):
    """A grain iterator over (batch, T) batches, endless without `epochs`; the same on every process
    of a run.

    Its get_state() is a few numbers; set_state() resumes bit-exact, at a cost that does not grow
    with the step. Of a mix an epoch is one pass over the first source. With `epochs`, the last
    batch is filled with empty rows. close() it to stop its threads.
    """
    import grain
    from grain.experimental import ThreadPrefetchIterDataset

    to_arrays = _encoder(source, tokenizer, data)
    # Without a single usable example the endless stream would search for ever.
    if not any(to_arrays(i) is not None for i in range(len(source.examples))):
        raise no_target(len(source.examples), data.seq_len, data.too_long)
    order = _order(source, seed, epochs)
    examples = order.map(to_arrays).to_iter_dataset(
        grain.ReadOptions(num_threads=8, prefetch_buffer_size=32)
    )
    batches = pack_stream(
        examples,
        seq_len=data.seq_len,
        bins=data.pack_bins,
        batch=batch,
        pad_id=tokenizer.pad_id,
        seed=seed,
        packing=data.packing,
        ratio=data.packing_ratio,
        attend=data.cross_document == "attend",
    )
    return iter(ThreadPrefetchIterDataset(batches, prefetch_buffer_size=prefetch))


def _order(source: Source, seed: int, epochs: int | None):
    """Indices of the examples in the order of training, as a grain MapDataset."""
    if not source.parts:
        return _shuffled(range(len(source.examples)), seed, epochs)
    import grain

    starts, rounds = source.examples.starts, Rounds.make(source.rates, seed)
    orders = [
        _shuffled(range(int(start), int(end)), seed, None)
        for start, end in itertools.pairwise(starts)
    ]

    def draw(k: int) -> int:
        part, number = rounds.place(k)
        return orders[part][number]

    return grain.MapDataset.range(sys.maxsize if epochs is None else epochs * source.epoch).map(
        draw
    )


def _shuffled(indices: range, seed: int, epochs: int | None):
    """A fresh permutation every epoch."""
    import grain

    return grain.MapDataset.range(indices.start, indices.stop).seed(seed).shuffle().repeat(epochs)


def _options(data: DataConfig) -> dict:
    """What `arrays` needs to know: rows that are cut from joined examples have no limit for one of
    them."""
    concat = data.packing == "concat"
    joined = concat or data.cross_document == "attend"
    return {
        "seq_len": None if concat else data.seq_len,
        "too_long": data.too_long,
        "joined": joined,
    }


def _encoder(
    source: Source, tokenizer: Tokenizer, data: DataConfig
) -> Callable[[int], Encoded | None]:
    template = find_template(data.template, tokenizer, data.code)
    options = {"template": template, "loss_turns": data.loss_turns, **_options(data)}
    return lambda i: encode(source.examples[i], i, tokenizer=tokenizer, **options)


@dataclass(frozen=True)
class RowEstimate:
    """How long a source is once packed; estimated from a sample unless `exact`."""

    stats: PackingStats  # of the asked number of epochs
    examples: int  # of the source
    skipped: int  # of one epoch: too long, and left out
    truncated: int  # of one epoch: too long, and cut
    longest: int  # tokens of the longest example looked at, before cutting
    longest_id: str
    exact: bool


def estimate_rows(
    source: Source,
    tokenizer: Tokenizer,
    data: DataConfig,
    *,
    seed: int,
    epochs: int | float = 1,
) -> RowEstimate:
    """Rows that `epochs` passes over the source fill, to turn epochs into steps: rows / batch.

    Exact, by packing the lengths in the order of training, for sources of up to 8192 examples; for
    larger ones from 2048 drawn at random. With too_long=error, raises UserError for such an example
    among these.
    """
    drawn, exact = _drawn(source, seed)
    measured = _measure(source, tokenizer, data, drawn)
    lengths, full = measured["length"], measured["full"]
    if not measured["targets"].any():
        raise no_target(source.epoch, data.seq_len, data.too_long)

    scale = source.epoch / len(drawn)  # examples for each one measured
    longest = int(full.argmax())
    return RowEstimate(
        _packed(measured, data, seed=seed, epochs=epochs, scale=scale),
        examples=source.epoch,
        skipped=round(scale * int((lengths == 0).sum())),
        truncated=round(scale * int(((lengths > 0) & (lengths < full)).sum())),
        longest=int(full[longest]),
        longest_id=source.examples[int(drawn[longest])].id,
        exact=exact,
    )


def _packed(
    measured: dict[str, np.ndarray],
    data: DataConfig,
    *,
    seed: int,
    epochs: int | float,
    scale: float,
) -> PackingStats:
    """What `epochs` passes over examples of the measured lengths fill, `scale` times."""
    lengths = measured["length"]
    order = _shuffled(range(len(lengths)), seed, None)
    seen = [order[i] for i in range(round(epochs * len(lengths)))]
    if data.packing == "ratio":
        rows = _ratio_rows(lengths, scale, data, epochs)
    else:
        options = {"seq_len": data.seq_len, "bins": data.pack_bins, "packing": data.packing}
        rows = round(scale * count_rows([int(n) for n in lengths[seen] if n], **options))
    tokens, targets = (round(scale * measured[name][seen].sum()) for name in ("length", "targets"))
    return PackingStats(rows, rows * data.seq_len, tokens, targets)


def _drawn(source: Source, seed: int) -> tuple[np.ndarray, bool]:
    """Examples to measure, and whether they are one epoch: of a mix, the first of the stream."""
    n, exact = source.epoch, source.epoch <= COUNTED
    if source.parts:
        order = _order(source, seed, None)
        return np.array([order[k] for k in range(n if exact else SAMPLED)]), exact
    return (
        np.arange(n)
        if exact
        else np.sort(np.random.default_rng(seed).choice(n, SAMPLED, replace=False))
    ), exact


def _ratio_rows(lengths: np.ndarray, scale: float, data: DataConfig, epochs: int | float) -> int:
    """Rows by their number of examples alone; UserError when these hold more tokens than the
    rows."""
    kept = lengths[lengths > 0]
    if kept.mean() * data.packing_ratio > data.seq_len:
        raise too_many(data.packing_ratio, data.seq_len)
    return ratio_rows(
        round(scale * len(kept)), bins=data.pack_bins, ratio=data.packing_ratio, epochs=epochs
    )


def _measure(
    source: Source, tokenizer: Tokenizer, data: DataConfig, drawn: np.ndarray
) -> dict[str, np.ndarray]:
    """Tokens of each drawn example in full, as trained on (0: skipped), and how many of them carry
    loss."""
    template, options = find_template(data.template, tokenizer, data.code), _options(data)
    found = np.zeros((len(drawn), 3), np.int64)
    for row, i in zip(found, drawn, strict=True):
        example = source.examples[int(i)]
        ids, loss = token_ids(example, template, tokenizer, data.loss_turns)
        kept = arrays(ids, loss, int(i), name=example.id, **options)
        row[0] = len(ids) - 1 + options["joined"]
        if kept is not None:
            row[1:] = len(kept["tokens"]), kept["weights"].sum()
    return dict(zip(("full", "length", "targets"), found.T, strict=True))
