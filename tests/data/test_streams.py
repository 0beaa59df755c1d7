"""Streams of rows: the same batches from one process that makes all and from several that share."""

import itertools
import json
import types

import numpy as np
import pytest
from data.reference import packing_stats

from lfl_jax.config import TrainConfig
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.data.loader import training_batches
from lfl_jax.data.row_estimate import estimate_rows
from lfl_jax.data.streams import MODEL_INPUTS, Batches, Streams, merged, on_mesh
from lfl_jax.data.tokenized import TokenizedSource

BATCH, COUNT = 8, 4
ALL = tuple(range(COUNT))
PACKINGS = [
    {"packing": "first_fit", "pack_bins": 2},
    {"packing": "concat"},
    {"packing": "ratio", "packing_ratio": 2.0, "pack_bins": 2, "seq_len": 96},
]


@pytest.fixture
def stream(tokenizer, make_data, make_source):
    """stream(own, microbatches, ...) -> an iterator over batches, closed at the end."""
    opened = []

    def start(own=ALL, microbatches=1, epochs=None, **data):
        tokenized = TokenizedSource(make_source(), tokenizer, make_data(**data))
        streams = Streams(COUNT, microbatches, own)
        options = {"batch": BATCH, "seed": 0, "epochs": epochs, "streams": streams}
        opened.append(training_batches(tokenized, **options))
        return opened[-1]

    yield start
    for batches in opened:
        batches.close()


def rows_of(batch, streams, microbatches):
    """The rows of these streams, by slices: of a microbatch, stream i has the i-th quarter."""
    size = BATCH // microbatches
    first = [m * size + s * size // COUNT for m in range(microbatches) for s in streams]
    return [row for start in first for row in range(start, start + size // COUNT)]


def equal(found, wanted):
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


@pytest.mark.parametrize("data", PACKINGS, ids=lambda data: data["packing"])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_processes_that_share_make_the_rows_of_one_that_makes_all(stream, microbatches, data):
    whole = stream(ALL, microbatches, **data)
    shares = {own: stream(own, microbatches, **data) for own in ((0, 1), (2,), (3,))}
    for batch in itertools.islice(whole, 12):
        for own, share in shares.items():
            found, mine = next(share), rows_of(batch, own, microbatches)
            equal({k: x[mine] for k, x in found.items()}, {k: x[mine] for k, x in batch.items()})
            others = np.delete(found["segment_ids"], mine, axis=0)
            assert not others.any(), "rows of other processes are empty"
            assert batch["segment_ids"][mine].any()


def test_the_batches_of_the_only_stream_are_not_copied():
    made = [{"tokens": np.ones((2, 4), np.int32)} for _ in range(2)]
    batches = Batches(Streams(), {0: iter(made)}, make_empty=dict)
    assert all(found is batch for found, batch in zip(batches, made, strict=True))


def test_a_batch_on_the_mesh_is_split_into_microbatches_in_order(stream):
    batch = next(stream())
    placed = on_mesh(batch, 2, make_rules())
    assert set(placed) == set(MODEL_INPUTS)
    equal(placed, {name: batch[name].reshape(2, BATCH // 2, -1) for name in placed})


@pytest.mark.parametrize("data", PACKINGS, ids=lambda data: data["packing"])
def test_a_run_resumes_on_another_number_of_processes(stream, data):
    whole = stream(**data)
    three = [stream(own, **data) for own in ((0, 1), (2,), (3,))]
    for _ in range(5):
        for batches in (whole, *three):
            next(batches)
    states = json.loads(json.dumps([batches.get_state() for batches in three]))
    two = [stream(own, **data) for own in ((0, 2), (1, 3))]
    for batches in two:
        batches.set_state(merged(states))
    for _ in range(5):
        wanted, found = next(whole), [next(batches) for batches in two]
        # what is padding in one is a row of the other
        filled = [batch["segment_ids"] > 0 for batch in found]
        tokens = np.where(filled[0], found[0]["tokens"], found[1]["tokens"])
        np.testing.assert_array_equal(tokens, wanted["tokens"])
        np.testing.assert_array_equal(filled[0] | filled[1], wanted["segment_ids"] > 0)


def test_a_checkpoint_from_before_there_were_streams_resumes():
    assert merged([{"next_index": 3}]) == {"streams": {"0": {"next_index": 3}}}


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("data", PACKINGS[:2], ids=lambda data: data["packing"])
def test_a_pass_holds_every_example_once_and_is_as_long_as_estimated(
    stream, tokenizer, make_source, make_data, data, epochs
):
    batches = list(stream(epochs=epochs, **data))
    starts = [b["example_ids"][(b["positions"] == 0) & (b["segment_ids"] > 0)] for b in batches]
    if data["packing"] == "first_fit":  # elsewhere an example may begin in two rows
        assert sorted(np.concatenate(starts).tolist()) == sorted([*range(37)] * epochs)

    tokenized = TokenizedSource(make_source(), tokenizer, make_data(streams=COUNT, **data))
    estimate = estimate_rows(tokenized, seed=0, epochs=epochs)
    found = packing_stats(batches)
    assert (estimate.stats.tokens, estimate.stats.targets) == (found.tokens, found.targets)
    assert -(-estimate.stats.rows // BATCH) == len(batches)


def test_a_process_makes_the_streams_of_its_devices_rows(monkeypatch):
    train = TrainConfig(steps=1, tokens=0.0, epochs=1.0, branch_from="", batch=16, microbatch=8)

    def of(*parts):
        """Streams of a process whose devices have these rows of a microbatch."""
        indices = {i: (slice(None), slice(*part), slice(None)) for i, part in enumerate(parts)}
        sharding = types.SimpleNamespace(addressable_devices_indices_map=lambda _shape: indices)
        monkeypatch.setattr(Rules, "sharding", lambda *_: sharding)
        return Streams.here(COUNT, train, make_rules()).own

    assert of((0, 2), (2, 4)) == (0, 1)
    assert of((5, 6), (6, 7)) == (2, 3)
    assert of((0, 1), (7, 8)) == (0, 3)
    assert of((None, None)) == ALL
