"""The lab's world: a function of its seed, with splits that share nothing, and known languages."""

import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from lfl_jax.config import DataConfig
from lfl_jax.data.lab import examples, language, vocabulary, world
from lfl_jax.data.lab.language import Language
from lfl_jax.data.sources import open_source
from lfl_jax.errors import UserError
from lfl_jax.run_setup import lab_folder
from lfl_jax.text import tokenizers


def data(source, **fields):
    given = {"path": "", "size": 90, "seq_len": 64, "template": "bare"} | fields
    return DataConfig(source=source, too_long="error", pack_bins=4, **given)


def test_the_world_is_a_function_of_its_seed():
    first, again, other = world.values(3), world.values.__wrapped__(3), world.values(4)
    assert np.array_equal(first, again) and (first == other).mean() < 0.1
    # These numbers are the base's: a change of them is another world, and every cached base of it.
    assert first[:2].tolist() == [[62, 38, 39, 53, 19, 62], [28, 34, 34, 7, 28, 28]]


def test_1024_facts_and_256_new_ones_with_all_values():
    facts = world.source_facts(0)
    assert len({(fact.entity, fact.relation) for fact in facts}) == len(facts) == 1024
    assert {fact.value for fact in facts} == set(range(64))
    assert len(world.new_facts(0)) == 256
    assert {fact.relation for fact in world.new_facts(0)} == {vocabulary.NEW_RELATION}


def test_further_facts_are_others_about_the_same_entities():
    first, further = world.new_facts(0), world.further_facts(0)
    assert [fact.entity for fact in first] == [fact.entity for fact in further]
    assert not {fact.question for fact in first} & {fact.question for fact in further}
    same = sum(a.value == b.value for a, b in zip(first, further, strict=True))
    # By chance a 64th: four, give or take.
    assert same < 14 and {fact.value for fact in further} <= set(range(64))
    assert further[17].question == "e017 w000" and first[17].question == "e017 r4"


@pytest.mark.parametrize("source", ["lab_new_facts", "lab_further_facts"])
def test_facts_alone_are_the_same_in_every_split(source):
    splits = [list(open_source(data(source), s, 0).examples) for s in ("train", "dev", "test")]
    assert splits[0] == splits[1] == splits[2] and len(splits[0]) == 256
    assert splits[0] != list(open_source(data(source, world=1), "train", 0).examples)


def test_the_rule_gives_the_first_relations_value_to_every_entity():
    known = {fact.entity: fact.value for fact in world.source_facts(0) if fact.relation == 0}
    ruled = {}
    for split in ("train", "dev", "test"):
        ruled |= {fact.entity: fact.value for fact in world.rule_facts(0, split)}
    assert ruled == known


def test_the_rules_splits_share_no_entity():
    entities = [{fact.entity for fact in world.rule_facts(0, s)} for s in ("train", "dev", "test")]
    assert [len(part) for part in entities] == [128, 64, 64]
    assert len(set.union(*entities)) == 256


def test_no_held_out_example_is_trained_on():
    train = examples.instructions("train", 0)
    for split in ("dev", "test"):
        held_out = examples.instructions(split, 0)
        assert len(held_out) == 64
        assert not {e.prompt for e in held_out} & {e.prompt for e in train}
    texts = {
        Language(0, "source").document(s, 0, i) for s in ("train", "dev", "test") for i in (0, 1)
    }
    assert len(texts) == 6


def test_three_of_four_transitions_are_shared():
    source, target = (Language(0, name).successors for name in ("source", "target"))
    assert (source == target).mean() == 0.75
    assert all(len(set(row)) == 4 for row in target.tolist())


def test_the_target_of_earlier_runs_is_the_default_one():
    """Bit for bit: runs and bases on disk were made with it."""
    successors = Language(0, "target").successors.astype(np.int64)
    assert hashlib.sha256(successors.tobytes()).hexdigest()[:16] == "ac53f4757a711907"
    earlier, now = (open_source(data("lab_cpt", **x), "train", 0) for x in ({}, {"shared": 0.75}))
    assert (earlier.sha256, earlier.description) == (now.sha256, now.description)


@pytest.mark.parametrize("shared", [1.0, 0.95, 0.9, 0.75, 0.5, 0.25, 0.0])
def test_a_target_shares_as_many_transitions_as_it_is_said_to(shared):
    source, target = Language(0, "source").successors, Language(0, "target", shared).successors
    assert (source == target).mean() == pytest.approx(shared, abs=1 / source.size)
    replaced = (source != target).sum(axis=1)
    # As evenly over the words as their number allows.
    assert np.ptp(replaced) <= 1
    assert all(len(set(row)) == 4 for row in target.tolist())
    for before, after in zip(source, target, strict=True):
        assert not {*after[before != after].tolist()} & {*before.tolist()}


def test_a_farther_target_replaces_what_a_nearer_one_does():
    source = Language(0, "source").successors
    targets = [Language(0, "target", shared).successors for shared in (0.9, 0.75, 0.5, 0.0)]
    for near, far in itertools.pairwise(targets):
        assert np.array_equal(near[near != source], far[near != source])


def test_a_target_is_told_by_its_share():
    near, far = (open_source(data("lab_cpt", shared=x), "test", 0) for x in (0.95, 0.5))
    assert "95% of its transitions the source's" in near.description and near.sha256 != far.sha256
    # The same draws, so that documents of two targets are paired.
    assert [x.examples[3].response.split()[0] for x in (near, far)] == 2 * ["w106"]


def test_every_word_has_one_new_follower():
    differing = language.replaced(0)
    assert [one.word for one in differing] == list(range(128))
    source, target = (Language(0, name).successors for name in ("source", "target"))
    for one in differing:
        assert {*source[one.word]} - {*target[one.word]} == {one.old}
        assert {*target[one.word]} - {*source[one.word]} == {one.new}


def test_text_follows_the_transitions_at_their_probabilities():
    spoken = Language(0, "target")
    ranks = Counter()
    for i in range(50):
        words = [int(word[1:]) for word in spoken.document("train", 0, i).split()]
        for before, after in itertools.pairwise(words):
            ranks[spoken.successors[before].tolist().index(after)] += 1
    shares = [ranks[rank] / ranks.total() for rank in range(4)]
    # Four standard errors of a share over 1,450 transitions.
    assert shares == pytest.approx(language.PROBABILITIES, abs=4 * math.sqrt(0.25 / ranks.total()))
    entropy = pytest.approx(1.2799, abs=1e-4)
    assert entropy == language.ENTROPY


def test_held_out_text_is_the_same_for_every_order_of_the_training_text():
    texts = {
        split: [Language(0, "source").document(split, seed, 5) for seed in (0, 1)]
        for split in ("train", "dev", "test")
    }
    assert len(set(texts["train"])) == 2
    assert len(set(texts["dev"])) == len(set(texts["test"])) == 1


@pytest.mark.parametrize(
    "source", ["lab_source", "lab_ift", "lab_new_facts", "lab_further_facts", "lab_cpt"]
)
def test_sources_are_flagged_synthetic_and_follow_the_worlds_seed(source):
    first, again, other = (open_source(data(source, world=w), "train", 0) for w in (0, 0, 1))
    assert first.synthetic and first.flag == "SYNTHETIC" and "world 0" in first.description
    assert first.sha256 == again.sha256 != other.sha256
    assert len({example.id for example in first.examples}) == len(first.examples)


def test_the_source_world_mixes_facts_and_documents():
    source = open_source(data("lab_source", size=104), "train", 0)
    kinds = Counter(example.is_document for example in source.examples)
    assert kinds == {False: 96, True: 8}
    held_out = open_source(data("lab_source", size=100), "test", 0)
    assert all(example.is_document for example in held_out.examples)


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="unknown split 'valid' of lab_ift"):
        examples.instructions("valid", 0)


def test_the_tokenizer_has_a_token_per_word_and_round_trips(tmp_path):
    tokenizer = lab_folder.tokenizer()
    text = " ".join(vocabulary.all_words())
    ids = tokenizer.encode(text)
    assert tokenizer.vocab_size == len(set(ids)) + len(vocabulary.SPECIALS) == 458
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_continuation(ids[:2], ids[2:4]) == " e002 e003"
    assert tokenizer.pieces([tokenizer.encode("dog")[0]]) == ["<unk>"]

    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    read = tokenizers.from_folder(tmp_path)
    assert read.encode(text) == ids and read.decode(ids) == text
    specials = [(t.bos_id, t.eos_id, t.pad_id, t.add_bos) for t in (tokenizer, read)]
    assert specials[0] == specials[1] == (1, 2, 0, True)
