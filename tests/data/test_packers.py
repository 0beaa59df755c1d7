"""Concatenation drops nothing and adds nothing; packing by ratio is llm-foundry's; both go on where
they stopped."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from data.reference import packing_stats, tokenized

from lfl_jax.config import DataConfig
from lfl_jax.data import row_estimate
from lfl_jax.data.examples import Example
from lfl_jax.data.formatting import find_template, token_ids
from lfl_jax.data.loader import training_batches
from lfl_jax.data.packers import Bin, BinPacker, fit
from lfl_jax.data.packing import ratio_rows
from lfl_jax.data.row_estimate import estimate_rows
from lfl_jax.data.tokenized import RowFormat, TokenizedSource, encode
from lfl_jax.errors import UserError

ALL = None


@pytest.fixture
def stream(tokenizer, make_data, make_source):
    """stream(n, source, data, ...) -> (batches, iterator); every iterator is closed at the end."""
    opened = []

    def start(n, source, data, batch=2, **options):
        examples = TokenizedSource(source, tokenizer, data)
        opened.append(training_batches(examples, batch=batch, seed=0, **options))
        return list(itertools.islice(opened[-1], n)), opened[-1]

    yield start
    for batches in opened:
        batches.close()


def check_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def documents(n=23, seed=0):
    sizes = np.random.default_rng(seed).integers(1, 150, n)
    return [
        Example("", chr(97 + i % 26) * int(size), f"d{i}", f"d{i}") for i, size in enumerate(sizes)
    ]


def flat(batches, name):
    rows = np.concatenate([batch[name] for batch in batches])
    filled = np.concatenate([batch["segment_ids"] for batch in batches]) > 0
    return rows[filled]


class TestConcat:
    """Rows of documents joined end to end."""

    @pytest.fixture
    def data(self, make_data):
        return make_data(packing="concat")

    def test_a_document_has_no_template_and_learns_everything_but_its_bos(self, tokenizer):
        ids, loss = token_ids(Example("", "ab", "d", "d"), find_template("plain"), tokenizer)
        assert (ids, loss) == (
            [tokenizer.bos_id, 97, 98, tokenizer.eos_id],
            [False, True, True, True],
        )
        without = dataclasses.replace(tokenizer, add_bos=False)
        assert token_ids(Example("", "ab", "d", "d"), find_template("plain"), without) == (
            [97, 98, tokenizer.eos_id],
            [True] * 3,
        )

    def test_rows_are_the_documents_joined_by_eos_and_nothing_is_dropped(
        self, stream, make_source, data, tokenizer
    ):
        examples = documents()
        batches, _ = stream(ALL, make_source(examples=examples), data, epochs=1)
        order = list(dict.fromkeys(flat(batches, "example_ids").tolist()))
        assert sorted(order) == list(range(len(examples)))
        expected = [
            i
            for d in order
            for i in (tokenizer.bos_id, *examples[d].response.encode(), tokenizer.eos_id)
        ]
        assert flat(batches, "tokens").tolist() == expected
        stats = packing_stats(batches)
        assert (stats.tokens, stats.rows) == (len(expected), -(-len(expected) // 64)), (
            "only the last row has padding"
        )
        assert stats.targets == len(expected) - len(examples), (
            "all but the first token of each are predicted, once"
        )

    def test_targets_follow_their_token_across_rows_and_never_leave_the_document(
        self, stream, make_source, data
    ):
        batches, _ = stream(ALL, make_source(examples=documents()), data, epochs=1)
        tokens, targets, weights = (
            flat(batches, name) for name in ("tokens", "targets", "weights")
        )
        inside = weights[:-1] > 0
        assert (targets[:-1][inside] == tokens[1:][inside]).all()
        last = np.append(np.diff(flat(batches, "example_ids")) != 0, True)
        assert (weights[last] == 0).all()
        assert (weights[~last] == 1).all()

    def test_isolated_parts_have_segments_and_positions_of_their_own(
        self, stream, make_source, data
    ):
        batches, _ = stream(ALL, make_source(examples=documents()), data, epochs=1)
        for batch in batches:
            for segments, ids, positions in zip(
                *(batch[k] for k in ("segment_ids", "example_ids", "positions")), strict=True
            ):
                for segment in range(1, segments.max() + 1):
                    here = segments == segment
                    assert len(set(ids[here])) == 1
                    assert positions[here].tolist() == list(range(here.sum()))

    def test_attending_rows_are_one_segment(self, stream, make_source, data):
        source = make_source(examples=documents())
        isolated, _ = stream(ALL, source, data, epochs=1)
        attending, _ = stream(
            ALL, source, dataclasses.replace(data, cross_document="attend"), epochs=1
        )
        for a, b in zip(isolated, attending, strict=True):
            filled = a["segment_ids"] > 0
            check_equal(b, a | {"segment_ids": filled, "positions": filled * np.arange(64)})
            assert {k: v.dtype for k, v in a.items()} == {k: v.dtype for k, v in b.items()}

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_resuming_goes_on_bit_for_bit_inside_documents_and_across_epochs(
        self, stream, make_source, data, prefetch
    ):
        source = make_source(examples=documents(7))
        whole, _ = stream(24, source, data, prefetch=prefetch)
        _, batches = stream(0, source, data, prefetch=prefetch)
        for n in range(23):
            check_equal(whole[n], next(batches))
            if n % 3 and prefetch:
                continue
            state = json.loads(json.dumps(batches.get_state()))
            assert len(json.dumps(state)) < 200
            _, fresh = stream(0, source, data, prefetch=prefetch)
            fresh.set_state(state)
            check_equal(whole[n + 1], next(fresh))

    def test_rows_are_counted_exactly_beforehand(self, stream, make_source, data, tokenizer):
        source = make_source(examples=documents())
        estimate = estimate_rows(TokenizedSource(source, tokenizer, data), seed=0, epochs=2)
        assert estimate.stats == packing_stats(stream(ALL, source, data, epochs=2)[0])

    def test_prompts_still_carry_no_loss(self, stream, make_source, data):
        batches, _ = stream(ALL, make_source(9), data, epochs=1)
        plain, _ = stream(
            ALL, make_source(9), dataclasses.replace(data, packing="first_fit"), epochs=1
        )
        assert flat(batches, "weights").sum() == flat(plain, "weights").sum()


def test_eos_as_input_is_a_token_without_a_target():
    example = tokenized([9, 1, 2, 3], [False, False, True, True])

    def encoded(seq_len, too_long, example=example):
        return encode(example, 5, RowFormat(seq_len, too_long, eos_as_input=True))

    assert {k: v.tolist() for k, v in encoded(4, "error").items()} == {
        "tokens": [9, 1, 2, 3],
        "targets": [1, 2, 3, 3],
        "weights": [0, 1, 1, 0],
        "example_ids": [5] * 4,
    }
    with pytest.raises(UserError, match="example x has 4 tokens"):
        encoded(3, "error")
    cut = encoded(3, "truncate")
    assert (cut["tokens"].tolist(), cut["weights"].tolist()) == ([9, 1, 2], [0, 1, 0])
    only_eos = tokenized([9, 1, 2, 3], [False, False, False, True])
    assert encoded(3, "truncate", only_eos) is None


def test_examples_that_attend_to_each_other_see_the_eos_between(
    stream, make_source, make_data, tokenizer
):
    source, data = make_source(9), make_data(cross_document="attend", seq_len=128)
    (batch, *_), _ = stream(ALL, source, data, epochs=1)
    assert (batch["tokens"] == tokenizer.eos_id).sum() > 2
    assert batch["segment_ids"].max() == 1
    assert (batch["weights"][batch["tokens"] == tokenizer.eos_id] == 0).all()


def bins(*sizes):
    return [Bin(size, (), ()) for size in sizes]


def test_bins_are_llm_foundrys():
    """Sizes that BinPackCollator (llm-foundry, July 2025) makes of these."""

    def packed(new, old, rows):
        return [found.size for found in fit(bins(*new), bins(*old), rows=rows, seq_len=64)]

    assert packed([30, 20, 10, 40, 5, 50], [], 2) == [60, 60, 35]
    assert packed([10, 10, 10, 10], [], 4) == [10, 10, 10, 10], (
        "no row stays empty while examples remain"
    )
    assert packed([10, 10, 10, 10], [50], 2) == [60, 30]
    assert packed([64, 1], [30, 20], 2) == [64, 31, 20]


class TestRatio:
    """llm-foundry's packing of a fixed number of examples a row."""

    @pytest.fixture
    def data(self, make_data):
        return make_data(packing="ratio", packing_ratio=2.0, pack_bins=3, seq_len=96)

    @pytest.fixture
    def source(self, make_source):
        return make_source(50)

    def test_every_group_of_rows_takes_its_examples(self, stream, source, data):
        batches, _ = stream(4, source, data, batch=3)
        assert [len(set(b["example_ids"].flat) - {-1}) for b in batches] == [6] * 4

    def test_every_example_once_in_a_finite_stream(self, stream, source, data):
        batches, _ = stream(ALL, source, data, epochs=1)
        seen = [i for b in batches for row in b["example_ids"] for i in set(row.tolist()) if i >= 0]
        assert sorted(seen) == list(range(50))

    @pytest.mark.parametrize("ratio", [1.0, 2.4])
    def test_resuming_goes_on_bit_for_bit_with_what_waits(
        self, stream, make_source, make_data, ratio
    ):
        odd = [Example("x" * 20, "r" * (41 if i % 3 else 1), f"e{i}", "c") for i in range(20)]
        source = make_source(examples=odd)
        data = make_data(packing="ratio", packing_ratio=ratio, pack_bins=3, seq_len=170)
        whole, _ = stream(20, source, data)
        _, batches = stream(0, source, data)
        waited = 0
        for n in range(19):
            check_equal(whole[n], next(batches))
            state = json.loads(json.dumps(batches.get_state()))
            waiting = '"left": [[' in json.dumps(state)
            waited += waiting
            if not waiting and n % 6:
                continue
            _, fresh = stream(0, source, data)
            fresh.set_state(state)
            check_equal(whole[n + 1], next(fresh))
        assert waited or ratio == 1

    def test_a_ratio_that_rows_cannot_hold_is_refused(self, stream, source, data, tokenizer):
        data = dataclasses.replace(data, packing_ratio=9.0)
        with pytest.raises(
            UserError, match=r"packing_ratio=9 gives rows of config.data.seq_len=96 more tokens"
        ):
            estimate_rows(TokenizedSource(source, tokenizer, data), seed=0)
        with pytest.raises(UserError, match="lower it"):
            stream(60, source, data)

    def test_rows_by_the_number_of_examples(self, source, data, tokenizer):
        assert estimate_rows(TokenizedSource(source, tokenizer, data), seed=0).stats.rows == 8 * 3
        assert (
            estimate_rows(TokenizedSource(source, tokenizer, data), seed=0, epochs=3).stats.rows
            == 3 * 8 * 3
        )
        assert (
            estimate_rows(TokenizedSource(source, tokenizer, data), seed=0, epochs=0.5).stats.rows
            == 4 * 3
        )

    @pytest.mark.parametrize("epochs", [1, 2, 4, 8, 16])
    def test_magicoder_has_the_papers_steps(self, epochs):
        """111,183 examples, ratio 3, 6 rows a device: 193, 386, 772, 1544 and 3088 steps of 192
        rows."""
        rows = ratio_rows(111_183, bins=6, ratio=3.0, epochs=epochs)
        assert -(-rows // 192) == 193 * epochs

    def test_the_papers_steps_from_lengths_like_magicoders(
        self, tokenizer, make_data, make_source, monkeypatch
    ):
        """A mean of 656 tokens, at most 4096; the estimate looks at a sample of them."""
        sizes = np.minimum(np.random.default_rng(0).lognormal(6.3, 0.6, 111_183).astype(int), 3900)
        response = "r" * 4000

        class Lengths(list):
            def __getitem__(self, i):
                return Example("q", response[: sizes[i]], f"e{i}", "c")

        source = make_source(examples=Lengths(range(111_183)))
        data = make_data(packing="ratio", packing_ratio=3.0, pack_bins=6, seq_len=4096)
        monkeypatch.setattr(row_estimate, "SAMPLE_SIZE", 300)
        estimate = estimate_rows(TokenizedSource(source, tokenizer, data), seed=0, epochs=4)
        assert -(-estimate.stats.rows // 192) == 4 * 193
        assert 0.4 < estimate.stats.efficiency < 0.6


def test_packing_fields_change_the_batches(stream, make_source, make_data):
    """Each option of packing, against the others."""
    source = make_source()
    options: list[DataConfig] = [
        make_data(seq_len=96, pack_bins=2),
        make_data(seq_len=96, pack_bins=2, packing="concat"),
        make_data(seq_len=96, pack_bins=2, packing="ratio", packing_ratio=1.5),
        make_data(seq_len=96, pack_bins=2, packing="ratio", packing_ratio=2.0),
        make_data(seq_len=96, pack_bins=2, cross_document="attend"),
    ]
    found = [stream(4, source, data)[0] for data in options]
    texts = {str([b["tokens"].tolist() for b in batches]) for batches in found}
    assert len(texts) == len(options)


def test_a_packer_without_a_parent_left_stops():
    class Nothing:
        def __next__(self):
            raise StopIteration

        def get_state(self):
            return {}

        def set_state(self, state):
            raise AssertionError

    with pytest.raises(StopIteration):
        next(BinPacker(Nothing(), rows=2, ratio=2.0, seq_len=8, pad_id=0))
