"""Mixes: exact rates, every example of every source in turn, resumable, and every part on
record."""

import collections
import itertools
import json

import pytest

from lfl_jax.data import mixes, row_estimate
from lfl_jax.data.loader import training_batches
from lfl_jax.data.row_estimate import estimate_rows
from lfl_jax.data.sources import held_out_splits, open_source
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import UserError

MIX = "word_problems:0.8,math_text:0.2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gsm8k", [("gsm8k", "", 1.0)]),
        ("tfds:some/dir", [("tfds", "some/dir", 1.0)]),
        ("metamath:0.9,c4:0.1", [("metamath", "", 0.9), ("c4", "", 0.1)]),
        ("metamath, c4", [("metamath", "", 1.0), ("c4", "", 1.0)]),
        ("tfds:a:b:3,jsonl:x.jsonl:1", [("tfds", "a:b", 3.0), ("jsonl", "x.jsonl", 1.0)]),
    ],
)
def test_names_folders_and_weights(text, expected):
    assert [(p.name, p.folder, p.weight) for p in mixes.parse(text)] == expected


@pytest.mark.parametrize(
    "text", ["a:0", "a:1,b:0", "a:0,b:0", "a:-1,b:1", "a,,b", "a:nan,b:1", "a:inf,b:1", ""]
)
def test_other_weights_are_refused(text):
    with pytest.raises(UserError, match="expected names with positive weights"):
        mixes.parse(text)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1.0,), (1,)),
        ((0.9, 0.1), (9, 1)),
        ((3.0, 1.0), (3, 1)),
        ((1.0, 1.0, 1.0), (334, 333, 333)),
        ((2.0, 2.0), (1, 1)),
    ],
)
def test_rates_are_the_weights_normalised(weights, expected):
    assert mixes.rates(weights) == expected


def test_a_weight_that_would_never_be_drawn_is_refused():
    with pytest.raises(UserError, match="below a thousandth"):
        mixes.rates((1.0, 1e-4))


def test_rounds_hold_each_source_at_its_rate_and_count_its_draws():
    rounds = mixes.Rounds.make((7, 2, 1), seed=0, draws=200)
    draws = [rounds[k] for k in range(len(rounds))]
    assert collections.Counter(source for source, _ in draws[:10]) == {0: 7, 1: 2, 2: 1}
    for source, count in enumerate([140, 40, 20]):
        assert [index for s, index in draws if s == source] == list(range(count))
    assert [rounds[k] for k in (199, 0)] == [draws[199], draws[0]]
    assert (mixes.Rounds.make((7, 2, 1), seed=1, draws=200).order != rounds.order).any()


@pytest.fixture
def data(make_data):
    return make_data(source=MIX, size=40, seq_len=512, pack_bins=2)


@pytest.fixture
def stream(tokenizer, data):
    """stream(n, ...) -> (batches, iterator) of the mix; every iterator is closed at the end."""
    opened = []

    def start(n, **options):
        source = open_source(data, "train", 0)
        tokenized = TokenizedSource(source, tokenizer, data)
        opened.append(training_batches(tokenized, batch=2, seed=0, **options))
        return list(itertools.islice(opened[-1], n)), opened[-1]

    yield start
    for batches in opened:
        batches.close()


def ids(batches):
    return [
        int(i)
        for batch in batches
        for row in batch["example_ids"]
        for i in dict.fromkeys(row.tolist())
        if i >= 0
    ]


def test_an_epoch_is_one_pass_over_the_first_source(stream):
    seen = ids(stream(None, epochs=1)[0])
    assert sorted(i for i in seen if i < 40) == list(range(40))
    assert len([i for i in seen if i >= 40]) == 10
    assert len(set(seen)) == 50, "and no replayed example twice before all were seen"


def test_a_mix_resumes_bit_for_bit(stream):
    whole, _ = stream(30)
    _, batches = stream(0)
    for n in range(29):
        next(batches)
        if n % 7:
            continue
        _, fresh = stream(0)
        fresh.set_state(json.loads(json.dumps(batches.get_state())))
        found = next(fresh)
        assert all((found[name] == whole[n + 1][name]).all() for name in found)


def test_every_part_is_on_record(data):
    source = open_source(data, "train", 3)
    found = source.provenance()
    assert found["name"] == "word_problems:80.0%,math_text:20.0%"
    assert (found["synthetic"], found["stand_in_for"], found["examples"]) == (
        True,
        "OpenWebMath",
        80,
    )
    assert [(p["share"], p["name"], p["seed"]) for p in found["parts"]] == [
        (0.8, "word_problems", 3),
        (0.2, "math_text", 3),
    ]
    assert found["sha256"] not in [p["sha256"] for p in found["parts"]]
    assert source.examples[40].id == "math_text/train/0"
    assert [e.id for e in source.examples][-1] == "math_text/train/39"


def test_other_shares_are_another_source(make_data):
    sources = [
        open_source(make_data(source=f"word_problems:{w},math_text:1", size=4), "train", 0)
        for w in (1, 2)
    ]
    assert sources[0].sha256 != sources[1].sha256


def test_a_mix_is_tested_on_its_first_source(data):
    assert held_out_splits(data) == ("test_seen", "test_unseen")
    assert open_source(data, "test_unseen", 0).name == "word_problems"
    assert open_source(data, "dev", 0).name == "word_problems"


def test_one_name_with_a_weight_is_that_source(make_data):
    one, plain = (
        open_source(make_data(source=name, size=4), "train", 0)
        for name in ("math_text:0.3", "math_text")
    )
    assert one.provenance() == plain.provenance()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "word_problems,wat"}, "'word_problems,wat' is unknown"),
        ({"source": MIX, "path": "a.jsonl"}, "replaces one source"),
        ({"source": "word_problems,jsonl:/nowhere.jsonl:0.1"}, "no data file /nowhere.jsonl"),
    ],
)
def test_mistakes_in_a_mix_are_answered(make_data, changes, message):
    with pytest.raises(UserError, match=message):
        open_source(make_data(**changes), "train", 0)


def test_rows_of_a_mix_are_estimated(data, tokenizer, stream, monkeypatch):
    source = open_source(data, "train", 0)
    estimate = estimate_rows(TokenizedSource(source, tokenizer, data), seed=0)
    counted = sum(int(b["segment_ids"].any(axis=1).sum()) for b in stream(None, epochs=1)[0])
    assert estimate.examples == 50
    assert estimate.stats.rows == pytest.approx(counted, rel=0.15)
    monkeypatch.setattr(row_estimate, "MAX_EXACT", 30)
    monkeypatch.setattr(row_estimate, "SAMPLE_SIZE", 30)
    sampled = estimate_rows(TokenizedSource(source, tokenizer, data), seed=0, epochs=2)
    assert sampled.stats.rows == pytest.approx(2 * counted, rel=0.2)
    assert not sampled.exact
