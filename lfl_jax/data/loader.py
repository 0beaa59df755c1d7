"""The stream of training batches: shuffled, mixed, packed, and resumable from a few numbers."""

import functools
import itertools
import sys
from typing import TYPE_CHECKING

from lfl_jax.data.examples import Source
from lfl_jax.data.mixes import Rounds
from lfl_jax.data.packing import empty_rows, pack_stream
from lfl_jax.data.streams import Batches, Streams
from lfl_jax.data.tokenized import TokenizedSource

if TYPE_CHECKING:
    import grain

THREADS = 8  # that read and tokenise, over the streams of a process
ONE_STREAM = Streams()


def training_batches(
    tokenized: TokenizedSource,
    *,
    batch: int,
    seed: int,
    epochs: int | None = None,
    prefetch: int = 2,
    streams: Streams = ONE_STREAM,
) -> Batches:
    """An iterator over (batch, T) batches, with the rows of this process's own streams.

    It is endless without `epochs`. An epoch of a mix is one pass over its first source. With
    `epochs`, empty rows fill the last batch. get_state() gives a few numbers; set_state() resumes
    bit-exact, at a cost that does not grow with the step. close() it to stop its threads.
    """
    # Without a single usable example the endless stream would search for ever.
    if all(tokenized.encode(i) is None for i in range(len(tokenized))):
        raise tokenized.empty_loss_mask_error(len(tokenized))

    order, rows = training_order(tokenized.source, seed, epochs), batch // streams.count
    pad_id, iterators = tokenized.tokenizer.pad_id, {}
    for stream in streams.own:
        # The examples are dealt like cards, so that a pass over them is one over every stream.
        examples = _examples(order[stream :: streams.count], tokenized, len(streams.own))
        packed = pack_stream(examples, tokenized.data, batch=rows, pad_id=pad_id, seed=seed)
        iterators[stream] = _prefetched(packed, prefetch)
    empty = functools.partial(empty_rows, batch, tokenized.data.seq_len, pad_id)
    return Batches(streams, iterators, empty)


def _examples(
    indices: "grain.MapDataset", tokenized: TokenizedSource, streams: int
) -> "grain.IterDataset":
    """The encoded examples of one of a process's `streams` streams."""
    import grain

    # Examples that `encode` leaves out are None, which grain drops.
    threads = max(1, THREADS // streams)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return indices.map(tokenized.encode).to_iter_dataset(options)


def _prefetched(rows: "grain.IterDataset", batches: int) -> "grain.DatasetIterator":
    from grain.experimental import ThreadPrefetchIterDataset

    return iter(ThreadPrefetchIterDataset(rows, prefetch_buffer_size=batches))


def training_order(source: Source, seed: int, epochs: int | None) -> "grain.MapDataset":
    """Indices of the examples in the order of training."""
    if not source.parts:
        return shuffled(range(len(source.examples)), seed, epochs)
    import grain

    # Each part is shuffled and repeated by itself; the rounds only say whose turn it is. grain's
    # own `mix` rounds the rates to integers by the smallest of them and draws in one fixed pattern.
    parts = [
        shuffled(range(int(start), int(end)), seed, None)
        for start, end in itertools.pairwise(source.examples.starts)
    ]
    draws = sys.maxsize if epochs is None else epochs * source.epoch
    rounds = Rounds.make(source.rates, seed, draws)
    return grain.MapDataset.select_from_datasets(parts, rounds)


def shuffled(indices: range, seed: int, epochs: int | None) -> "grain.MapDataset":
    """The indices in a new permutation every epoch."""
    import grain

    return grain.MapDataset.range(indices.start, indices.stop).seed(seed).shuffle().repeat(epochs)
