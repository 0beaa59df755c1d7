"""The lab's evaluations: which facts they ask, of which entities, and what a right answer is."""

import math

import pytest

from lfl_jax.data.formatting import document_ids
from lfl_jax.data.lab import world
from lfl_jax.errors import UserError
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import TASKS, lab, lab_transitions
from lfl_jax.run_setup import lab_folder
from lfl_jax.text import tokenizers
from lfl_jax.text.chat import TEMPLATES

TEST = Inputs(template=TEMPLATES["bare"], world=2)
DEV = Inputs(template=TEMPLATES["bare"], world=2, dev=True)


@pytest.mark.parametrize(
    ("task", "dev", "test"),
    [
        ("lab_source_facts", 256, 768),
        ("lab_new_facts", 64, 192),
        ("lab_further_facts", 64, 192),
        ("lab_rule", 64, 64),
        ("lab_transitions", 32, 96),
    ],
)
def test_items_that_decide_and_items_that_are_reported_share_no_entity(task, dev, test):
    items = [TASKS[task].items(inputs) for inputs in (DEV, TEST)]
    assert [len(part) for part in items] == [dev, test]
    assert not {item.cluster for item in items[0]} & {item.cluster for item in items[1]}
    assert len({item.id for part in items for item in part}) == dev + test


def test_an_item_asks_a_fact_of_its_world():
    item = lab.new_facts(TEST)[0]
    fact = world.new_facts(2, ("train", "test"))[0]
    assert (item.id, item.prompt, item.answer) == (fact.question, fact.question, f" {fact.answer}")
    assert item.cluster == fact.question.split()[0]


def test_one_request_of_one_token_after_bos_and_the_question():
    tokenizer = lab_folder.tokenizer()
    (request,) = lab.requests(lab.rule(TEST)[0], tokenizer, 64)
    assert len(request.context) == 3 and request.context[0] == tokenizer.bos_id
    assert tokenizer.decode(request.continuation) == lab.rule(TEST)[0].answer.strip()


def test_another_tokenizer_is_refused():
    with pytest.raises(UserError, match="'v.*' is 4 tokens of this tokenizer.*lab-words"):
        lab.requests(lab.rule(TEST)[0], tokenizers.byte_tokenizer(), 64)


def test_right_is_the_most_probable_token():
    item = lab.source_facts(TEST)[0]
    records = [
        lab.record(item, [Scored(ll=ll, tokens=1, greedy=greedy, truncated=False)])
        for ll, greedy in ((-0.5, True), (-1.5, False))
    ]
    assert [record["acc"] for record in records] == [1.0, 0.0]
    assert [record["gold_logprob"] for record in records] == [-0.5, -1.5]


def test_a_transition_is_the_new_follower_against_the_old_one():
    tokenizer, item = lab_folder.tokenizer(), lab_transitions.transitions(TEST)[0]
    new, old = lab_transitions.requests(item, tokenizer, 64)
    assert tokenizer.decode(new.continuation) == item.new.strip()
    # As at the beginning of a document of training.
    assert list(new.context) == document_ids(item.prompt, tokenizer)[:-1] == list(old.context)
    scored = [Scored(ll=math.log(p), tokens=1, greedy=False, truncated=False) for p in (0.3, 0.1)]
    assert lab_transitions.record(item, scored)["acc"] == 1.0
    assert lab_transitions.record(item, scored)["gold_logprob"] == pytest.approx(math.log(0.75))
    assert lab_transitions.record(item, scored[::-1])["acc"] == 0.0
    with pytest.raises(UserError, match="5 tokens of this tokenizer.*lab-words"):
        lab_transitions.requests(item, tokenizers.byte_tokenizer(), 64)


def test_what_is_learned_and_what_is_forgotten():
    sections = {name: TASKS[name].metrics[0].section for name in TASKS if name.startswith("lab_")}
    assert sections == {
        "lab_new_facts": "learning",
        "lab_further_facts": "learning",
        "lab_transitions": "learning",
        "lab_rule": "learning",
        "lab_keys": "learning",
        "lab_source_facts": "forgetting",
    }
