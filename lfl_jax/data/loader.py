"""The stream of training batches: shuffled, mixed, packed, and resumable from a few numbers."""

import itertools
import sys
from typing import TYPE_CHECKING

from lfl_jax.data.examples import Source
from lfl_jax.data.mixes import Rounds
from lfl_jax.data.packing import pack_stream
from lfl_jax.data.tokenized import TokenizedSource

if TYPE_CHECKING:
    import grain


def training_batches(
    tokenized: TokenizedSource,
    *,
    batch: int,
    seed: int,
    epochs: int | None = None,
    prefetch: int = 2,
) -> "grain.DatasetIterator":
    """A grain iterator over (batch, T) batches, the same on every process of a run.

    It is endless without `epochs`. An epoch of a mix is one pass over its first source. With
    `epochs`, empty rows fill the last batch. get_state() gives a few numbers; set_state() resumes
    bit-exact, at a cost that does not grow with the step. close() it to stop its threads.
    """
    import grain
    from grain.experimental import ThreadPrefetchIterDataset

    # Without a single usable example the endless stream would search for ever.
    if all(tokenized.encode(i) is None for i in range(len(tokenized))):
        raise tokenized.empty_loss_mask_error(len(tokenized))

    # Examples that `encode` leaves out are None, which grain drops.
    examples = training_order(tokenized.source, seed, epochs).map(tokenized.encode)
    stream = examples.to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=32))
    pad_id = tokenized.tokenizer.pad_id
    batches = pack_stream(stream, tokenized.data, batch=batch, pad_id=pad_id, seed=seed)
    return iter(ThreadPrefetchIterDataset(batches, prefetch_buffer_size=prefetch))


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
