"""The stream of training batches (shuffled, sharded by process, packed, resumable) and its length."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lfl_jax.config import DataConfig
from lfl_jax.data.formatting import Encoded, arrays, encode, find_template, no_target, token_ids
from lfl_jax.data.packing import PackingStats, count_rows, pack_stream
from lfl_jax.data.sources import Source
from lfl_jax.errors import UserError
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
    process_index: int = 0,
    process_count: int = 1,
    epochs: int | None = None,
    prefetch: int = 2,
):
    """A grain iterator over this process's (batch / process_count, T) batches, endless without `epochs`.

    Its get_state() is a few numbers; set_state() goes on bit for bit, at a cost that does not grow with the
    step. All processes walk the same shuffled stream, each taking every process_count-th example and packing
    its own: together they see each example once an epoch whatever their number, but rows depend on it. With
    `epochs`, the last batch is filled with empty rows and the number of batches may differ between processes.
    close() it to stop its threads.
    """
    import grain
    from grain.experimental import ThreadPrefetchIterDataset

    if batch % process_count:
        raise UserError(f"config.train.batch={batch} cannot be split over {process_count} processes")
    to_arrays = _encoder(source, tokenizer, data)
    # Without a single usable example the endless stream would search for ever.
    if not any(to_arrays(i) is not None for i in range(len(source.examples))):
        raise no_target(len(source.examples), data.seq_len, data.too_long)
    order = _order(len(source.examples), seed, epochs)[process_index::process_count]
    examples = order.map(to_arrays).to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=32))
    batches = pack_stream(
        examples,
        seq_len=data.seq_len,
        bins=data.pack_bins,
        batch=batch // process_count,
        pad_id=tokenizer.pad_id,
        seed=seed,
    )
    return iter(ThreadPrefetchIterDataset(batches, prefetch_buffer_size=prefetch))


def _order(n: int, seed: int, epochs: int | None):
    """Indices of examples as a grain MapDataset: a fresh permutation every epoch."""
    import grain

    return grain.MapDataset.range(n).seed(seed).shuffle().repeat(epochs)


def _encoder(source: Source, tokenizer: Tokenizer, data: DataConfig) -> Callable[[int], Encoded | None]:
    options = {"template": find_template(data.template), "seq_len": data.seq_len, "too_long": data.too_long}
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
    process_count: int = 1,
) -> RowEstimate:
    """Rows that `epochs` passes over the source fill, to turn epochs into steps: rows / batch.

    Exact, by packing the lengths in the order of training, for sources of up to 8192 examples; for larger
    ones from 2048 drawn at random. With too_long=error, raises UserError for such an example among these.
    """
    n = len(source.examples)
    exact = n <= COUNTED
    drawn = np.arange(n) if exact else np.sort(np.random.default_rng(seed).choice(n, SAMPLED, replace=False))
    measured = _measure(source, tokenizer, data, drawn)
    lengths, targets = measured["length"], measured["targets"]
    if not targets.any():
        raise no_target(n, data.seq_len, data.too_long)
    order = _order(len(drawn), seed, None)
    seen = [order[i] for i in range(round(epochs * len(drawn)))]
    shards = [[int(n) for n in lengths[seen[p::process_count]] if n] for p in range(process_count)]
    rows = sum(count_rows(shard, seq_len=data.seq_len, bins=data.pack_bins) for shard in shards)
    scale = n / len(drawn)
    totals = (rows, rows * data.seq_len, lengths[seen].sum(), targets[seen].sum())
    longest = int(measured["full"].argmax())
    return RowEstimate(
        stats=PackingStats(*(round(scale * total) for total in totals)),
        examples=n,
        skipped=round(scale * int((lengths == 0).sum())),
        truncated=round(scale * int(((lengths > 0) & (lengths < measured["full"])).sum())),
        longest=int(measured["full"][longest]),
        longest_id=source.examples[int(drawn[longest])].id,
        exact=exact,
    )


def _measure(source: Source, tokenizer: Tokenizer, data: DataConfig, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """Tokens of each drawn example in full, as trained on (0: skipped), and how many of them carry loss."""
    template = find_template(data.template)
    found = np.zeros((len(drawn), 3), np.int64)
    for row, i in zip(found, drawn, strict=True):
        example = source.examples[int(i)]
        ids, n_prompt = token_ids(example, template, tokenizer)
        kept = arrays(ids, n_prompt, int(i), name=example.id, seq_len=data.seq_len, too_long=data.too_long)
        row[0] = len(ids) - 1
        if kept is not None:
            row[1:] = len(kept["tokens"]), kept["weights"].sum()
    return dict(zip(("full", "length", "targets"), found.T, strict=True))
