"""The training stream: complete, reshuffled, resumable; and its length known beforehand."""

import collections
import contextlib
import dataclasses
import itertools
import json

import numpy as np
import pytest
from data.reference import encode_example, packing_stats

from lfl_jax.data import row_estimate
from lfl_jax.data import tokenized as tokenized_source
from lfl_jax.data.examples import Example
from lfl_jax.data.loader import training_batches
from lfl_jax.data.row_estimate import estimate_rows
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import UserError


@pytest.fixture
def stream(tokenizer, make_data, make_source):
    """stream(n_batches, ...) -> (list of batches, iterator); every iterator is closed at the
    end."""
    opened = []

    def start(n, source=None, data=None, batch=3, seed=0, **options):
        tokenized = TokenizedSource(source or make_source(), tokenizer, data or make_data())
        batches = training_batches(tokenized, batch=batch, seed=seed, **options)
        opened.append(batches)
        return list(itertools.islice(batches, n)), batches

    yield start
    for batches in opened:
        batches.close()


def check_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def example_ids(batches) -> list[int]:
    """Ids of the segments, in no particular order, once for each segment."""
    starts = [b["example_ids"][(b["positions"] == 0) & (b["segment_ids"] > 0)] for b in batches]
    return sorted(np.concatenate(starts).tolist())


ALL = 10**6  # batches: as many as there are


def test_an_epoch_holds_every_example_once_as_it_is_encoded(
    stream, tokenizer, make_source, make_data
):
    source = make_source()
    batches, _ = stream(ALL, source, epochs=1)
    assert example_ids(batches) == list(range(37))
    for batch in batches:
        for row in range(3):
            for segment in range(1, batch["segment_ids"][row].max() + 1):
                here = batch["segment_ids"][row] == segment
                i = int(batch["example_ids"][row, here][0])
                alone = encode_example(source.examples[i], i, tokenizer)
                for name, values in alone.items():
                    np.testing.assert_array_equal(batch[name][row, here], values)


def test_batches_have_the_documented_arrays(stream):
    (batch,), _ = stream(1)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "tokens": ((3, 64), "int32"),
        "targets": ((3, 64), "int32"),
        "weights": ((3, 64), "float32"),
        "segment_ids": ((3, 64), "int32"),
        "positions": ((3, 64), "int32"),
        "example_ids": ((3, 64), "int32"),
    }


def test_every_epoch_has_its_own_order_and_the_stream_does_not_end(stream, make_source, make_data):
    examples = [Example(f"{i:02}", "r" * 40, f"ex{i}", f"c{i}") for i in range(8)]  # one a row
    batches, _ = stream(12, make_source(examples=examples), make_data(pack_bins=1), batch=2)
    epochs = [example_ids(batches[i : i + 4]) for i in (0, 4, 8)]
    assert epochs == [list(range(8))] * 3
    orders = {
        tuple(b["example_ids"][r, 0] for b in batches[i : i + 4] for r in (0, 1)) for i in (0, 4, 8)
    }
    assert len(orders) == 3


def test_seeds_give_streams_of_their_own_and_the_same_seed_the_same(stream, make_data):
    first, again, other = (
        stream(4, data=make_data(pack_bins=1), seed=seed)[0] for seed in (0, 0, 1)
    )
    check_equal(first, again)
    assert (first[0]["tokens"] != other[0]["tokens"]).any()


@pytest.mark.parametrize(("bins", "prefetch"), [(1, 2), (4, 0), (4, 2), (16, 2)])
def test_resuming_goes_on_bit_for_bit_across_epochs(stream, make_data, bins, prefetch):
    """An epoch is about 10 batches, so epochs change in the middle; saves fall inside groups of
    open rows."""
    data = make_data(pack_bins=bins)
    whole, _ = stream(25, data=data, prefetch=prefetch)
    assert len(example_ids(whole)) > 2 * 37
    _, batches = stream(0, data=data, prefetch=prefetch)
    for n in range(24):
        check_equal([whole[n]], [next(batches)])
        if n not in (0, 4, 9, 10, 11, 23):
            continue
        # small and plain: it goes into a checkpoint
        state = json.loads(json.dumps(batches.get_state()))
        assert len(json.dumps(state)) < 200
        _, fresh = stream(0, data=data, prefetch=prefetch)
        fresh.set_state(state)
        check_equal(whole[n + 1 : n + 2], [next(fresh)])


def test_the_number_of_batches_read_ahead_changes_nothing(stream):
    check_equal(stream(12, prefetch=0)[0], stream(12, prefetch=5)[0])


def test_a_long_example_stops_the_stream_with_its_id(stream, make_source):
    source = make_source(
        examples=[*make_source(5).examples, Example("x" * 80, "r", "the-long-one", "c")]
    )
    with pytest.raises(UserError, match="example the-long-one has"):
        stream(ALL, source, epochs=1)


def test_long_examples_are_skipped_and_the_others_all_there(stream, make_source, make_data):
    examples = make_source(9).examples
    source = make_source(examples=[Example("x" * 80, "r", "long", "c"), *examples])
    batches, _ = stream(ALL, source, make_data(too_long="skip"), epochs=2)
    assert example_ids(batches) == sorted([*range(1, 10), *range(1, 10)])


@pytest.mark.parametrize("too_long", ["skip", "truncate"])
def test_nothing_left_to_train_on_is_an_error_and_no_endless_search(
    stream, tokenizer, make_source, make_data, too_long
):
    source, data = (
        make_source(examples=[Example("x" * 80, "r", "long", "c")] * 3),
        make_data(too_long=too_long),
    )
    with pytest.raises(UserError, match="loss mask is all zero: none of 3 examples"):
        stream(1, source, data)
    with pytest.raises(UserError, match="loss mask is all zero: none of 3 examples"):
        estimate_rows(TokenizedSource(source, tokenizer, data), seed=0)


@pytest.mark.parametrize(
    "change", [{"template": "chatml", "seq_len": 128}, {"seq_len": 80}, {"pack_bins": 1}]
)
def test_every_option_changes_the_batches(stream, make_data, change):
    plain, changed = stream(6)[0], stream(6, data=make_data(**change))[0]
    assert any(a["tokens"].shape != b["tokens"].shape or (a["tokens"] != b["tokens"]).any()
               for a, b in zip(plain, changed, strict=True))  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("bins", [1, 4])
def test_rows_are_counted_exactly_beforehand(
    stream, tokenizer, make_source, make_data, epochs, bins
):
    data, source = make_data(pack_bins=bins), make_source()
    estimate = estimate_rows(TokenizedSource(source, tokenizer, data), seed=0, epochs=epochs)
    assert estimate.stats == packing_stats(stream(ALL, source, data, batch=2, epochs=epochs)[0])
    assert estimate.exact
    assert estimate.examples == 37


def test_long_examples_are_counted_by_what_happens_to_them(tokenizer, make_source, make_data):
    odd = [Example("x" * 80, "r", "no-room", "c"), Example("x", "r" * 60, "cut", "c")]
    source = make_source(examples=[*make_source(9).examples, *odd])
    cut = estimate_rows(TokenizedSource(source, tokenizer, make_data(too_long="truncate")), seed=0)
    assert (cut.skipped, cut.truncated, cut.longest_id) == (1, 1, "no-room")
    skipped = estimate_rows(TokenizedSource(source, tokenizer, make_data(too_long="skip")), seed=0)
    assert (skipped.skipped, skipped.truncated) == (2, 0)
    assert cut.stats.tokens == skipped.stats.tokens + 64
    with pytest.raises(UserError, match="example no-room"):
        estimate_rows(TokenizedSource(source, tokenizer, make_data()), seed=0)


def test_half_an_epoch_is_about_half_the_rows(tokenizer, make_source, make_data):
    source = make_source(200)
    half, whole = (
        estimate_rows(TokenizedSource(source, tokenizer, make_data()), seed=0, epochs=e)
        for e in (0.5, 1)
    )
    assert half.stats.rows == pytest.approx(whole.stats.rows / 2, rel=0.1)


def test_large_sources_are_estimated_from_a_sample(tokenizer, make_source, make_data, monkeypatch):
    source = make_source(300)
    exact = estimate_rows(TokenizedSource(source, tokenizer, make_data()), seed=0)
    monkeypatch.setattr(row_estimate, "MAX_EXACT", 299)
    monkeypatch.setattr(row_estimate, "SAMPLE_SIZE", 150)
    sampled = estimate_rows(TokenizedSource(source, tokenizer, make_data()), seed=0)
    assert exact.exact
    assert not sampled.exact
    assert sampled.examples == 300
    for name, value in dataclasses.asdict(exact.stats).items():
        assert getattr(sampled.stats, name) == pytest.approx(value, rel=0.1), name


@pytest.fixture
def counting(tokenizer):
    """(a tokenizer, how often it has encoded each prompt)."""
    calls = collections.Counter()

    def encode(text):
        calls[text] += 1
        return tokenizer.encode(text)

    return dataclasses.replace(tokenizer, encode=encode), calls


def test_every_example_is_tokenised_once(counting, make_source, make_data):
    tokenizer, calls = counting
    tokenized = TokenizedSource(make_source(), tokenizer, make_data())
    estimate_rows(tokenized, seed=0)
    with contextlib.closing(training_batches(tokenized, batch=3, seed=0, epochs=3)) as batches:
        list(batches)
    assert (len(calls), set(calls.values())) == (37, {1})


def test_what_the_cache_has_no_room_for_is_tokenised_again(
    stream, counting, make_source, make_data, monkeypatch
):
    expected, _ = stream(12)
    monkeypatch.setattr(tokenized_source, "MAX_CACHED_TOKENS", 200)
    tokenizer, calls = counting
    tokenized = TokenizedSource(make_source(), tokenizer, make_data())
    estimate_rows(tokenized, seed=0)
    with contextlib.closing(training_batches(tokenized, batch=3, seed=0)) as batches:
        check_equal(expected, list(itertools.islice(batches, 12)))
    assert min(calls.values()) == 1
    assert max(calls.values()) > 1
