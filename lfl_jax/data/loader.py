"""The stream of training batches (shuffled, sharded by process, packed, resumable) and its length."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lfl_jax.config import DataConfig
from lfl_jax.data.formatting import Encoded, arrays, encode, find_template, no_target, token_ids
from lfl_jax.data.mixes import Rounds
from lfl_jax.data.packers import too_many
from lfl_jax.data.packing import PackingStats, count_rows, pack_stream, ratio_rows
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
    its own: together they see each example once an epoch whatever their number, but rows depend on it. Of a mix
    each process draws from every source at the same rates, and an epoch is one pass over the first source. With
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
    order = _order(source, seed, epochs, process_index, process_count)
    examples = order.map(to_arrays).to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=32))
    batches = pack_stream(
        examples,
        seq_len=data.seq_len,
        bins=data.pack_bins,
        batch=batch // process_count,
        pad_id=tokenizer.pad_id,
        seed=seed,
        packing=data.packing,
        ratio=data.packing_ratio,
        attend=data.cross_document == "attend",
    )
    return iter(ThreadPrefetchIterDataset(batches, prefetch_buffer_size=prefetch))


def _order(source: Source, seed: int, epochs: int | None, process: int = 0, processes: int = 1):
    """Indices of the examples that one process walks, as a grain MapDataset."""
    if not source.parts:
        return _shuffled(range(len(source.examples)), seed, epochs)[process::processes]
    import grain

    starts, rounds = source.examples.starts, Rounds.make(source.rates, seed)
    orders = [
        _shuffled(range(int(start), int(end)), seed, None)[process::processes]
        for start, end in itertools.pairwise(starts)
    ]
    draws = range(sys.maxsize if epochs is None else epochs * source.epoch)[process::processes]

    def draw(k: int) -> int:
        part, number = rounds.place(k)
        return orders[part][number]

    return grain.MapDataset.range(len(draws)).map(draw)


def _shuffled(indices: range, seed: int, epochs: int | None):
    """A fresh permutation every epoch."""
    import grain

    return grain.MapDataset.range(indices.start, indices.stop).seed(seed).shuffle().repeat(epochs)


def _options(data: DataConfig) -> dict:
    """What `arrays` needs to know: rows that are cut from joined examples have no limit for one of them."""
    concat = data.packing == "concat"
    joined = concat or data.cross_document == "attend"
    return {"seq_len": None if concat else data.seq_len, "too_long": data.too_long, "joined": joined}


def _encoder(source: Source, tokenizer: Tokenizer, data: DataConfig) -> Callable[[int], Encoded | None]:
    template = find_template(data.template, tokenizer)
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
    process_count: int = 1,
) -> RowEstimate:
    """Rows that `epochs` passes over the source fill, to turn epochs into steps: rows / batch.

    Exact, by packing the lengths in the order of training, for sources of up to 8192 examples; for larger
    ones from 2048 drawn at random. With too_long=error, raises UserError for such an example among these.
    """
    n, drawn, exact = source.epoch, *_drawn(source, seed)
    measured = _measure(source, tokenizer, data, drawn)
    lengths, targets = measured["length"], measured["targets"]
    if not targets.any():
        raise no_target(n, data.seq_len, data.too_long)
    order = _shuffled(range(len(drawn)), seed, None)
    seen = [order[i] for i in range(round(epochs * len(drawn)))]
    scale = n / len(drawn)
    if data.packing == "ratio":
        rows = _ratio_rows(lengths, scale, data, epochs, process_count)
    else:
        shards = [[int(n) for n in lengths[seen[p::process_count]] if n] for p in range(process_count)]
        options = {"seq_len": data.seq_len, "bins": data.pack_bins, "packing": data.packing}
        rows = round(scale * sum(count_rows(shard, **options) for shard in shards))
    longest = int(measured["full"].argmax())
    totals = (round(scale * total) for total in (lengths[seen].sum(), targets[seen].sum()))
    return RowEstimate(
        PackingStats(rows, rows * data.seq_len, *totals),
        examples=n,
        skipped=round(scale * int((lengths == 0).sum())),
        truncated=round(scale * int(((lengths > 0) & (lengths < measured["full"])).sum())),
        longest=int(measured["full"][longest]),
        longest_id=source.examples[int(drawn[longest])].id,
        exact=exact,
    )


def _drawn(source: Source, seed: int) -> tuple[np.ndarray, bool]:
    """Examples to measure, and whether they are one epoch: of a mix, the first of the stream."""
    n, exact = source.epoch, source.epoch <= COUNTED
    if source.parts:
        order = _order(source, seed, None)
        return np.array([order[k] for k in range(n if exact else SAMPLED)]), exact
    return (np.arange(n) if exact else np.sort(np.random.default_rng(seed).choice(n, SAMPLED, replace=False))), exact


def _ratio_rows(lengths: np.ndarray, scale: float, data: DataConfig, epochs: int | float, processes: int) -> int:
    """Rows by their number of examples alone; UserError when these hold more tokens than the rows."""
    kept = lengths[lengths > 0]
    if kept.mean() * data.packing_ratio > data.seq_len:
        raise too_many(data.packing_ratio, data.seq_len)
    total = round(scale * len(kept))
    options = {"bins": data.pack_bins, "ratio": data.packing_ratio, "epochs": epochs}
    return sum(ratio_rows(len(range(p, total, processes)), **options) for p in range(processes))


def _measure(source: Source, tokenizer: Tokenizer, data: DataConfig, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """Tokens of each drawn example in full, as trained on (0: skipped), and how many of them carry loss."""
    template, options = find_template(data.template, tokenizer), _options(data)
    found = np.zeros((len(drawn), 3), np.int64)
    for row, i in zip(found, drawn, strict=True):
        example = source.examples[int(i)]
        ids, loss = token_ids(example, template, tokenizer, data.loss_turns)
        kept = arrays(ids, loss, int(i), name=example.id, **options)
        row[0] = len(ids) - 1 + options["joined"]
        if kept is not None:
            row[1:] = len(kept["tokens"]), kept["weights"].sum()
    return dict(zip(("full", "length", "targets"), found.T, strict=True))
