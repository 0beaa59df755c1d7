"""UUID pairs: drawn from seed and index, version 4, the same where recall is measured and others in
"test"."""

import pickle
from uuid import UUID

import pytest

from lfl_jax.data import uuid_pairs
from lfl_jax.data.sources import held_out_splits, open_source
from lfl_jax.errors import UserError


def texts(pairs):
    return {text for e in pairs for text in (e.prompt, e.response)}


def test_pairs_are_uuids_of_version_4_and_all_different():
    pairs = uuid_pairs.source(0, "train", 500)
    assert len(texts(pairs)) == 1000 and all(
        UUID(text).version == 4 and len(text) == 32 for text in texts(pairs)
    )
    assert len({e.id for e in pairs}) == len({e.cluster for e in pairs}) == 500


def test_a_pair_depends_on_seed_and_index_only():
    few, many = uuid_pairs.source(3, "train", 5), uuid_pairs.source(3, "train", 50)
    assert list(few) == list(many)[:5] and few[-1] == many[4]
    assert pickle.loads(pickle.dumps(few))[2] == many[2]
    assert not texts(few) & texts(uuid_pairs.source(4, "train", 5))
    with pytest.raises(IndexError):
        few[5]


def test_the_first_pair_stays_what_it_is():
    """Whoever changes the draw makes every earlier result one of other pairs."""
    first = uuid_pairs.source(0, "train", 1)[0]
    assert (first.prompt, first.response) == (
        "58fa7e8757e442b4bd8bef7f3750236b",
        "ef8af4d0ec274032894001efe6141ed3",
    )


def test_recall_is_measured_on_the_training_pairs_and_test_holds_others():
    train, dev, test = (list(uuid_pairs.source(0, split, 20)) for split in ("train", "dev", "test"))
    assert train == dev and not texts(train) & texts(test)


def test_prompt_and_hyphens():
    plain = uuid_pairs.source(0, "train", 1)[0]
    other = uuid_pairs.source(0, "train", 1, prompt="{key} belongs to? {", hyphens=True)[0]
    assert (other.prompt, other.response) == (
        f"{UUID(plain.prompt)} belongs to? {{",
        str(UUID(plain.response)),
    )


def test_guessing_the_format_alone_scores_guessed():
    """A reader who writes 4 and 8 where they are likely and 0 elsewhere."""
    guess, pairs = "0" * 12 + "4000" + "8" + "0" * 15, uuid_pairs.source(0, "train", 2000)
    right = sum(a == b for e in pairs for a, b in zip(guess, e.response, strict=True))
    assert right / (32 * len(pairs)) == pytest.approx(uuid_pairs.CHANCE_DIGIT_ACCURACY, abs=0.003)
    assert round(uuid_pairs.CHANCE_DIGIT_ACCURACY, 4) == 0.0977


def test_the_source_follows_its_fields(make_data):
    data = make_data(source="uuid", size=7, uuid_prompt="Value of {key}?", uuid_hyphens=True)
    source = open_source(data, "train", 5)
    assert list(source.examples) == list(
        uuid_pairs.source(5, "train", 7, prompt="Value of {key}?", hyphens=True)
    )
    found = source.provenance()
    assert (found["synthetic"], found["seed"], found["examples"], found["name"]) == (
        True,
        5,
        7,
        "uuid",
    )
    assert found["sha256"] != open_source(make_data(source="uuid", size=7), "train", 5).sha256
    assert held_out_splits(data) == ("train",)


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({}, "valid", "unknown split 'valid'.*train, dev, test"),
        ({"uuid_prompt": "key"}, "train", "must hold {key}"),
    ],
)
def test_mistakes_are_answered(make_data, changes, split, message):
    with pytest.raises(UserError, match=message):
        open_source(make_data(source="uuid", **changes), split, 0)
