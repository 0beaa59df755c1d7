"""Replay and sham training are mixes: what is tested stays, and so does the order of the target."""

import itertools

import pytest
from lfl_jax.configs import lab

from lfl_jax.config import Config
from lfl_jax.data import checks
from lfl_jax.data.loader import training_order
from lfl_jax.data.sources import held_out_splits, open_source, open_tested
from lfl_jax.evals import inputs

TARGETS = ("lab_ift", "lab_cpt")


def data_of(source, words="smoke"):
    c = lab.get_config(words)
    c.data.source = source
    return Config.from_dict(c).data


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("share", [0.001, 0.01, 0.05])
def test_replay_leaves_the_order_of_the_target_as_it_is(target, share):
    alone = open_source(data_of(target), "train", 0)
    mixed = open_source(data_of(f"{target}:{1 - share:g},lab_source:{share:g}"), "train", 0)
    drawn = training_order(mixed, 5, None)
    indices = [drawn[k] for k in range(2000)]
    of_target = [i for i in indices if i < len(alone.examples)]
    assert len(of_target) == round(2000 * (1 - share)), "shares are of examples"
    order = training_order(alone, 5, None)
    assert of_target == [order[k] for k in range(len(of_target))]
    # Both epochs, not only the first.
    assert len(of_target) > 2 * len(alone.examples)


def test_replay_has_every_fact_of_the_source_world():
    c = lab.get_config("")
    c.data.source = "lab_ift:0.95,lab_source:0.05"
    source = open_source(Config.from_dict(c).data, "train", 0).parts[1]
    assert len({e.prompt for e in source.examples if not e.is_document}) == 1024
    # What source_nll reads is drawn apart from what is trained on.
    trained = {e.response for e in source.examples if e.is_document}
    tested = inputs.from_config(Config.from_dict(c)).source_text
    assert len(tested) == 512 and not trained & set(tested)


@pytest.mark.parametrize("source", ["lab_ift:0.99,lab_source:0.01", "lab_ift:0,lab_source"])
def test_what_is_tested_is_the_target_whatever_is_trained_on(source):
    alone, mixed = data_of("lab_ift"), data_of(source)
    assert held_out_splits(alone) == held_out_splits(mixed)
    for split in ("dev", "test"):
        assert list(open_source(mixed, split, 0).examples) == list(
            open_source(alone, split, 0).examples
        )
    # Few-shot examples are of the target, too.
    assert list(open_tested(mixed, "train", 0).examples) == list(
        open_source(alone, "train", 0).examples
    )


def test_a_first_source_of_weight_0_is_not_trained_on():
    sham = open_source(data_of("lab_ift:0,lab_source"), "train", 3)
    assert sham.provenance() == open_source(data_of("lab_source"), "train", 3).provenance()
    mixed = open_source(data_of("lab_ift:0,lab_source:0.5,lab_cpt:0.5"), "train", 3)
    assert [part.name for part in mixed.parts] == ["lab_source", "lab_cpt"]


def test_provenance_names_the_replay():
    source = open_source(data_of("lab_ift:0.999,lab_source:0.001"), "train", 0)
    assert source.name == "lab_ift:99.9%,lab_source:0.1%"
    assert [part["share"] for part in source.provenance()["parts"]] == [0.999, 0.001]


def test_a_share_too_small_for_the_run_is_said():
    source = open_source(data_of("lab_ift:0.999,lab_source:0.001"), "train", 0)
    assert not list(checks.rarely_drawn(source, 1500.0))
    (text,) = checks.rarely_drawn(source, 240.0)
    assert text == (
        "the run trains on about 240 examples, of which lab_source is 0.1%: it may not be trained"
        " on at all"
    )
    plain = open_source(data_of("lab_ift"), "train", 0)
    assert not list(itertools.chain(checks.rarely_drawn(plain, 0.5)))
