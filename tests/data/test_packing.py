"""Packed rows hold each example unchanged and apart; both packers write the same batches."""

import numpy as np
import pytest
from data.reference import pack_once, packing_stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lfl_jax.config import DataConfig
from lfl_jax.data.packing import check_loss_mask, first_fit_rows, pack_stream
from lfl_jax.errors import UserError

SEQ_LEN, PAD = 16, 99


def encoded(i: int, length: int) -> dict[str, np.ndarray]:
    """Example i: every token of the whole set is a different number, its first half is the
    prompt."""
    ids = np.arange(1000 * i, 1000 * i + length + 1, dtype=np.int32)
    weights = (np.arange(1, length + 1) > length // 2).astype(np.float32)
    example_ids = np.full(length, i, np.int32)
    return {"tokens": ids[:-1], "targets": ids[1:], "weights": weights, "example_ids": example_ids}


def unpacked(batches) -> dict[int, dict[str, np.ndarray]]:
    """{example id: its arrays}, read back by segment; asserts what no batch may break."""
    found = {}
    for batch in batches:
        assert {k: v.dtype for k, v in batch.items()} == dict.fromkeys(batch, np.int32) | {
            "weights": np.float32
        }
        assert {v.shape[1] for v in batch.values()} == {SEQ_LEN}
        padding = batch["segment_ids"] == 0
        assert (batch["weights"][padding] == 0).all()
        assert (batch["example_ids"][padding] == -1).all()
        assert (batch["tokens"][padding] == PAD).all()
        for row, segments in enumerate(batch["segment_ids"]):
            filled = segments[segments > 0]
            assert (segments[: len(filled)] == filled).all(), "padding comes last"
            assert sorted(set(filled)) == list(range(1, segments.max() + 1))
            for segment in range(1, segments.max() + 1):
                here = segments == segment
                (example,) = set(batch["example_ids"][row, here].tolist())
                assert example not in found, "an example stands in two places"
                assert batch["positions"][row, here].tolist() == list(range(here.sum()))
                found[example] = {
                    name: batch[name][row, here] for name in ("tokens", "targets", "weights")
                }
    return found


def check_same(found, examples):
    assert sorted(found) == list(range(len(examples)))
    for i, arrays in found.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, examples[i][name])


LENGTHS = st.lists(st.integers(1, SEQ_LEN), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(1, 5))
def test_pack_once_holds_every_example_once_and_unchanged(lengths, batch):
    examples = [encoded(i, n) for i, n in enumerate(lengths)]
    batches = pack_once(examples, seq_len=SEQ_LEN, batch=batch, pad_id=PAD)
    assert {len(b["tokens"]) for b in batches} == {batch}
    check_same(unpacked(batches), examples)
    stats = packing_stats(batches)
    assert stats.tokens == sum(lengths)
    assert stats.targets == sum(int(e["weights"].sum()) for e in examples)


@settings(max_examples=100, deadline=None)
@given(LENGTHS)
def test_pack_once_is_first_fit(lengths):
    """No example would have fitted into an earlier row at its turn."""
    batches = pack_once(
        [encoded(i, n) for i, n in enumerate(lengths)], seq_len=SEQ_LEN, batch=1, pad_id=PAD
    )
    row_of = {
        int(i): row for row, b in enumerate(batches) for i in set(b["example_ids"].flat) - {-1}
    }
    for i, length in enumerate(lengths):
        for row in range(row_of[i]):
            before = sum(lengths[j] for j in range(i) if row_of[j] == row)
            assert before + length > SEQ_LEN


def test_targets_stay_inside_their_example():
    """The token after the last one of a document is never another document's first."""
    examples = [encoded(i, 5) for i in range(6)]
    (batch,) = pack_once(examples, seq_len=SEQ_LEN, batch=2, pad_id=PAD)
    filled = batch["segment_ids"] > 0
    assert (batch["targets"][filled] // 1000 == batch["example_ids"][filled]).all()
    assert (batch["segment_ids"].max(axis=1) == 3).all(), "three documents share a row"


def test_pack_once_of_nothing_is_no_batch():
    assert pack_once([], seq_len=SEQ_LEN, batch=2, pad_id=PAD) == []


def streamed(examples, bins, batch, seed=0):
    import grain

    dataset = grain.MapDataset.source(examples).to_iter_dataset()
    data = DataConfig(
        source="jsonl", path="", size=1, seq_len=SEQ_LEN, template="plain", too_long="error",
        pack_bins=bins,
    )  # fmt: skip
    return list(pack_stream(dataset, data, batch=batch, pad_id=PAD, seed=seed))


@pytest.mark.parametrize("bins", [1, 3, 16])
def test_the_stream_holds_every_example_once_and_unchanged(bins):
    lengths = np.random.default_rng(0).integers(1, SEQ_LEN + 1, 50).tolist()
    examples = [encoded(i, n) for i, n in enumerate(lengths)]
    batches = streamed(examples, bins, batch=4)
    assert {len(b["tokens"]) for b in batches} == {4}
    check_same(unpacked(batches), examples)
    assert packing_stats(batches).rows == first_fit_rows(lengths, SEQ_LEN, bins)


def test_both_packers_write_the_same_batch():
    examples = [encoded(i, n) for i, n in enumerate([9, 7, 16, 3, 12])]
    (streamed_batch,) = streamed(examples, bins=8, batch=4)
    (once,) = pack_once(examples, seq_len=SEQ_LEN, batch=4, pad_id=PAD)
    assert list(streamed_batch) == list(once)
    # the stream shuffles its rows
    order = [np.lexsort(b["tokens"].T[::-1]) for b in (streamed_batch, once)]
    for name in once:
        np.testing.assert_array_equal(streamed_batch[name][order[0]], once[name][order[1]])


def test_more_open_rows_waste_less():
    lengths = np.random.default_rng(0).integers(1, SEQ_LEN, 300).tolist()
    examples = [encoded(i, n) for i, n in enumerate(lengths)]
    tight, loose = (packing_stats(streamed(examples, bins, batch=1)).efficiency for bins in (16, 1))
    assert tight > loose + 0.1


def test_the_seed_orders_the_rows():
    examples = [encoded(i, 16) for i in range(16)]
    first, again, other = (streamed(examples, 16, 16, seed)[0]["tokens"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_mask_of_one_value_is_refused():
    def stats(weights):
        example = encoded(0, 8) | {"weights": np.asarray(weights, np.float32)}
        return packing_stats(pack_once([example], seq_len=SEQ_LEN, batch=1, pad_id=PAD))

    with pytest.raises(UserError, match="all zero"):
        check_loss_mask(stats([0] * 8))
    with pytest.raises(UserError, match="all one"):
        check_loss_mask(stats([1] * 8))
    check_loss_mask(stats([0] * 7 + [1]))


def test_the_numbers_of_a_packed_batch():
    stats = packing_stats(pack_once([encoded(0, 8)], seq_len=SEQ_LEN, batch=3, pad_id=PAD))
    assert (stats.rows, stats.slots, stats.tokens, stats.targets) == (1, 16, 8, 4)
    assert (stats.efficiency, stats.mask_fraction) == (0.5, 0.5)
