"""Streams of training rows: each packs its share of the examples into its share of every batch.

With one stream every process makes whole batches. With several, a process makes only the streams
whose rows its own devices compute, so that hosts share the tokenising. The rows depend on the
number of streams and not on that of processes: a run resumes on any number of hosts. (What
mosaicml-streaming calls num_canonical_nodes is the same idea.)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lfl_jax.config import TrainConfig
from lfl_jax.core import hosts
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Batch

if TYPE_CHECKING:
    import grain

# Arrays of a packed batch that the training step reads.
MODEL_INPUTS = ("tokens", "targets", "weights", "segment_ids", "positions")
ROW_AXES = ("layers", "batch", "time")  # of microbatches, rows and tokens, by their sharding

State = dict[str, Any]  # JSON


@dataclass(frozen=True)
class Streams:
    """Whose rows are whose: of every microbatch, the i-th of `count` equal parts is of stream i.

    microbatches: of a batch. own: the streams that this process makes.
    """

    count: int = 1
    microbatches: int = 1
    own: tuple[int, ...] = (0,)

    @classmethod
    def here(cls, count: int, train: TrainConfig, rules: Rules) -> "Streams":
        """Of `count` streams, those that the devices of this process need."""
        shape = (train.microbatches, train.rows, 1)
        parts = rules.sharding(ROW_AXES, shape).addressable_devices_indices_map(shape).values()
        rows = (row for _, part, _ in parts for row in range(*part.indices(train.rows)))
        own = {row * count // train.rows for row in rows}
        return cls(count, train.microbatches, tuple(sorted(own)))

    def place(self, rows: Batch, stream: int, batch: Batch) -> None:
        """Write the rows of a stream where they belong in the batch."""
        for name, values in rows.items():
            microbatches = batch[name].reshape(self.microbatches, self.count, -1, *values.shape[1:])
            microbatches[:, stream] = values.reshape(self.microbatches, -1, *values.shape[1:])


class Batches:
    """Batches (B, T) from the iterators of one's own streams; rows of other streams are empty.

    Ends when all of them have. get_state and set_state hold the position of each stream. close()
    stops their threads.
    """

    def __init__(
        self,
        streams: Streams,
        iterators: Mapping[int, "grain.DatasetIterator"],
        make_empty: Callable[[], Batch],
    ) -> None:
        self._streams, self._iterators, self._make_empty = streams, iterators, make_empty

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        found = {stream: next(rows, None) for stream, rows in self._iterators.items()}
        if all(rows is None for rows in found.values()):
            raise StopIteration
        # The only stream makes whole batches: a copy would cost the training loop 25 to 195 ms.
        if self._streams.count == 1:
            return found[0]
        batch = self._make_empty()
        for stream, rows in found.items():
            if rows is not None:
                self._streams.place(rows, stream, batch)
        return batch

    def get_state(self) -> State:
        """The position in each stream: JSON, and of one's own streams alone."""
        # JSON has no numbers as keys
        states = {str(stream): rows.get_state() for stream, rows in self._iterators.items()}
        return {"streams": states}

    def set_state(self, state: State) -> None:
        """Continue from there; the state may be of more streams than one's own."""
        for stream, rows in self._iterators.items():
            rows.set_state(state["streams"][str(stream)])

    def close(self) -> None:
        """Stop reading."""
        for rows in self._iterators.values():
            rows.close()


def merged(states: Sequence[State]) -> State:
    """The state of all streams, from those of the processes that wrote a checkpoint."""
    # Checkpoints from before there were streams have the position of the only one.
    parts = [state.get("streams", {"0": state}) for state in states]
    return {"streams": {stream: at for part in parts for stream, at in part.items()}}


def on_mesh(batch: Batch, microbatches: int, rules: Rules) -> Batch:
    """A batch as (A, B, T) arrays on the mesh: A microbatches, sequences over data and fsdp.

    Of the (B, T) batch only the rows of this process's devices are read.
    """
    placed = {}
    for name in MODEL_INPUTS:
        micro = batch[name].reshape(microbatches, -1, batch[name].shape[-1])
        placed[name] = hosts.to_devices(micro, rules.sharding(ROW_AXES, micro.shape))
    return placed
