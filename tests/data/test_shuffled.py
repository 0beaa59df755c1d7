"""Shuffled responses: the same prompts and the same responses, none where it was, tests as ever."""

import dataclasses
from collections import Counter

import pytest
from lfl_jax.configs import lab

from lfl_jax.config import Config
from lfl_jax.data import shuffled
from lfl_jax.data.examples import Example
from lfl_jax.data.sources import open_source, open_tested
from lfl_jax.errors import UserError
from lfl_jax.report import describe


def data_of(source="lab_ift", **fields):
    c = lab.get_config("smoke")
    c.data.source = source
    c.data.update({"shuffle_responses": True, **fields})
    return Config.from_dict(c).data


def pairs(examples):
    return [(example.prompt, example.response) for example in examples]


def test_prompts_and_responses_are_those_of_the_target_and_no_pair_is():
    true = open_source(data_of(shuffle_responses=False), "train", 0)
    sham = open_source(data_of(), "train", 0)
    assert [e.id for e in sham.examples] == [e.id for e in true.examples]
    assert [e.prompt for e in sham.examples] == [e.prompt for e in true.examples]
    responses = [[e.response for e in source.examples] for source in (true, sham)]
    assert Counter(responses[0]) == Counter(responses[1])
    # 64 values for 384 examples: six would keep theirs by chance.
    assert not any(a == b for a, b in zip(*responses, strict=True))


def test_the_permutation_is_of_the_datas_seed():
    first, again, other = (pairs(open_source(data_of(), "train", s).examples) for s in (0, 0, 1))
    assert first == again != other
    set_, same = (pairs(open_source(data_of(seed=0), "train", s).examples) for s in (5, 6))
    assert set_ == same == first


def test_a_rule_does_not_become_another_rule():
    """Equal responses go to prompts of different ones: else the sham could be learned."""
    true = open_source(data_of(shuffle_responses=False), "train", 0).examples
    sham = open_source(data_of(), "train", 0).examples
    became = Counter((a.response, b.response) for a, b in zip(true, sham, strict=True))
    assert became.most_common(1)[0][1] <= 4


def test_what_is_tested_stays_as_it_is():
    true, sham = data_of(shuffle_responses=False), data_of()
    for split in ("dev", "test"):
        assert pairs(open_source(sham, split, 0).examples) == pairs(
            open_source(true, split, 0).examples
        )
    assert pairs(open_tested(sham, "train", 0).examples) == pairs(
        open_source(true, "train", 0).examples
    )


def test_the_source_says_so():
    true, sham = (open_source(data_of(shuffle_responses=x), "train", 0) for x in (False, True))
    assert sham.name == "lab_ift (responses shuffled)"
    assert "responses shuffled among the prompts, seed 0" in sham.provenance()["description"]
    assert sham.sha256 != true.sha256 and sham.flag == "SYNTHETIC"
    mixed = open_source(data_of("lab_ift:0.9,lab_source:0.1"), "train", 0)
    marks = [source.provenance().get("responses_shuffled") for source in (true, sham, mixed)]
    assert marks == [None, True, True]


def test_results_name_replay_and_shuffled_responses_of_real_text_too():
    base = {"dequantised_from": "", "source": "a file"}
    data = {"synthetic": False, "stand_in_for": None, "description": "99.0% mine; 1.0% c4"}
    assert describe.flags({"base": base, "data": data}) == []
    for mark in ({"parts": [{}, {}]}, {"responses_shuffled": True}):
        flags = describe.flags({"base": base, "data": data | mark})
        assert flags == ["training source is 99.0% mine; 1.0% c4"]


def test_replayed_text_is_not_shuffled():
    mixed = open_source(data_of("lab_ift:0.9,lab_source:0.1"), "train", 0)
    plain = open_source(data_of("lab_source", shuffle_responses=False), "train", 0)
    assert mixed.parts[0].name == "lab_ift (responses shuffled)"
    assert pairs(mixed.parts[1].examples) == pairs(plain.examples)


def test_only_half_of_the_examples_can_have_one_response():
    order = shuffled.permutation(["no"] * 50 + ["yes"] * 50, 0)
    assert sorted(order) == list(range(100)) and all(
        (i < 50) != (order[i] < 50) for i in range(100)
    )
    more = shuffled.permutation(["no"] * 60 + ["yes"] * 40, 0)
    # 40 of the 60 can have a "yes", and every "yes" goes to one of them.
    assert sorted(more) == list(range(100)) and all(more[i] < 60 for i in range(60, 100))
    assert list(shuffled.permutation(["a"], 0)) == [0]


def test_documents_have_no_responses_to_shuffle():
    for source in ("lab_cpt", "lab_ift:0,lab_cpt"):
        with pytest.raises(UserError, match="is a document, which answers no prompt"):
            open_source(data_of(source), "train", 0)


def test_conversations(make_source):
    asks = (("user", "a"), ("assistant", "b"), ("user", "c"))
    talks = [
        Example("c", f"r{i}", f"t{i}", "t", turns=(*asks, ("assistant", f"r{i}"))) for i in range(3)
    ]
    with pytest.raises(UserError, match="t0 has 2 answers.*loss_turns=last"):
        shuffled.source(make_source(examples=talks), 0, "all")
    found = shuffled.source(make_source(examples=talks), 0, "last").examples
    for example, talk in zip(found, talks, strict=True):
        assert example.turns[:3] == asks and example.response != talk.response
        assert example.turns[3] == ("assistant", example.response)
    single = [dataclasses.replace(talk, turns=talk.turns[2:]) for talk in talks]
    assert len(shuffled.source(make_source(examples=single), 0, "all").examples) == 3
