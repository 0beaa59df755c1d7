"""Which tokens lost likelihood: types of tokens by rules, planted losses by type and position, and
models that are their base."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from helpers import adapter_for

from lfl_jax.analysis import token_forgetting, token_types
from lfl_jax.analysis.token_types import Token, type_of
from lfl_jax.core import spec
from lfl_jax.core.sharding import make_rules
from lfl_jax.errors import UserError
from lfl_jax.evals import batching, scorer
from lfl_jax.evals.task import Scorer
from lfl_jax.evals.tasks import perplexity
from lfl_jax.model import LoadedModel, Model, Origin
from lfl_jax.models import llama
from lfl_jax.text.tokenizers import byte_tokenizer

BYTES = byte_tokenizer()
TEXTS = ("In 1987 Ada met Bo. They met 3 times.", "Ada wrote:\nx = f(12)\nand left.", "!")
# Of common words, so that the others are rare.
COUNTS = {"in": 40, "they": 40, "met": 40, "times": 1, "wrote": 40, "and": 40, "left": 40, "ada": 1}


def split(text):
    return re.findall(r"\s*\w+|\s*[^\w\s]|\s+", text)


def types_of(text, counts=None, pieces=None, special=()):
    is_rare = token_types.rare_words(counts or {"common": 100})
    tokens = token_types.tokens_of(pieces or split(text), special, is_rare)
    assert {token.document for token in tokens} == {
        "".join(p for p in pieces or [text] if p not in special)
    }
    return {token.text.strip(): type_of(token) for token in tokens}


def test_every_type_on_an_example():
    common = {"the": 50, "painter": 50, "in": 50, "met": 50}
    found = types_of("In 1987 the painter Zoltan met the ocarina, I met.", common)
    assert found == {
        **dict.fromkeys(("In", "the", "painter", "met"), "word"),
        "1987": "number",
        "Zoltan": "name",
        "ocarina": "rare word",
        ",": "punctuation",
        ".": "punctuation",
        "I": "rare word",
    }
    pieces = ["<s>", "the", " pain", "ter", "\n", " \\xc3", "\\xa9", "."]
    found = types_of("".join(pieces), common, pieces, special=["<s>"])
    assert found["<s>"] == "special token" and found["pain"] == "word"
    assert found["ter"] == "rest of a word" and found[""] == "white space"
    assert found["\\xa9"] == "part of a character"


@pytest.mark.parametrize(
    "line",
    ["def f(x):", "    return x", "x = 1", "import os", "for (;;) {", "a.append(b)", "if x == y:"],
)
def test_a_line_of_code_is_code_and_prose_is_not(line):
    prose = "It was 5 o'clock; if so, he (Bo) left for home."
    found = types_of(f"{prose}\n{line}\n{prose}")
    kinds = [found[piece.strip()] for piece in split(line) if piece.strip() not in prose]
    assert kinds and set(kinds) == {"code"}
    assert found["Bo"] == "name" and found["5"] == "number"


def test_a_capital_at_the_beginning_of_a_sentence_is_no_name():
    common = {"then": 9, "no": 9, "bo": 9, "left": 9}
    assert types_of('Then Bo left. "No', common)["Bo"] == "name"
    assert types_of("Bo left.", common)["Bo"] == "word"
    assert types_of('left. "No', common)["No"] == "word"


def test_rare_words_are_the_tail_of_the_counts():
    # 2 of 100 words occur once and 8 four times: together a tenth.
    counts = {"a": 90, "b": 4, "c": 4, "d": 1, "e": 1}
    is_rare = token_types.rare_words(counts)
    assert [word for word in counts if is_rare(word)] == ["b", "c", "d", "e"]
    assert is_rare("unseen") and not is_rare("A")
    for share in (0.05, 0.02, 0.001):
        is_rare = token_types.rare_words(counts, share)
        assert [word for word in counts if is_rare(word)] == ["d", "e"]
    equal = token_types.rare_words({"a": 3, "b": 3})
    assert not equal("a") and equal("unseen")


def test_a_token_that_no_type_takes_is_refused():
    with pytest.raises(UserError, match="'x' is of none of the types digit"):
        type_of(Token("x", "x", 0, 1), {"digit": lambda token: token.text.isdigit()})


def planted(increase):
    """(base, tuned): nll by a token's id, and more by increase(targets, positions)."""

    def base_nll(rows):
        scored = rows["weights"] > 0
        return np.where(scored, 1 + rows["targets"] / 256, 0).astype(np.float32), scored

    def tuned_nll(rows):
        nll, scored = base_nll(rows)
        more = increase(rows["targets"], rows["positions"] + 1)
        return np.where(scored, nll + more, 0).astype(np.float32), scored

    def diverge(rows):
        nll = tuned_nll(rows)[0] - base_nll(rows)[0]
        return nll, -nll

    def unused(*_, **__):
        raise AssertionError

    return Scorer("base", BYTES, base_nll, unused), Scorer(
        "tuned", BYTES, tuned_nll, unused, diverge
    )


def is_digit(targets):
    return (targets >= ord("0")) & (targets <= ord("9"))


def test_what_is_planted_in_numbers_is_of_numbers():
    base, tuned = planted(lambda targets, _: 0.5 * is_digit(targets))
    found = token_forgetting.measure(base, tuned, TEXTS, word_counts=COUNTS, examples=2)
    by_name = {group.name: group for group in found.types}
    digits = sum(map(str.isdigit, "".join(TEXTS)))
    total = sum(map(len, TEXTS)) + len(TEXTS)  # of every text BOS, too
    assert found.types[0].name == "number" and found.total.tokens == total
    # The line of a program has two more, which are code.
    assert by_name["number"].tokens == digits - 2 and by_name["code"].tokens == len("x=f(12)")
    assert by_name["number"].change.mean == by_name["number"].kl == 0.5
    assert by_name["number"].share_of_increase == pytest.approx((digits - 2) / digits)
    assert by_name["code"].share_of_increase == pytest.approx(2 / digits)
    assert by_name["name"].change.mean == by_name["word"].change.mean == 0
    assert sum(group.share for group in found.types) == pytest.approx(1)
    assert found.total.change.mean == pytest.approx(0.5 * digits / total)
    assert found.rarity == "the counts given"

    first = next(example for example in found.examples if example.type == "number")
    assert (first.before, first.token, first.after) == ("In ", "1", "987 Ada met Bo. They")
    assert first.tuned_nll - first.base_nll == 0.5 and first.text == 0
    assert sum(example.type == "number" for example in found.examples) == 2
    assert {example.type for example in found.examples} == {"number", "code"}, "no loss, no example"


def test_errors_are_clustered_by_text():
    """Two texts, of which one lost: the mean over tokens, and the error of two clusters."""
    base, tuned = planted(lambda targets, _: np.where(targets == ord("b"), 1.0, 0.0))
    found = token_forgetting.measure(base, tuned, ["a" * 10, "b" * 10]).total.change
    assert found.clusters == 2 and found.mean == pytest.approx(10 / 22)
    assert found.low < 0 < found.high, "20 tokens of two texts are not 20 observations"


def test_by_position_what_was_read_before():
    base, tuned = planted(lambda _, read: 0.25 * (read >= 4))
    for length in (64, 8):  # in one window, and in several of 8 tokens
        found = token_forgetting.measure(base, tuned, ["x" * 20], length=length).positions
        assert [group.name for group in found[:3]] == ["after 1", "after 2 to 3", "after 4 to 7"]
        changes = {group.name: group.change.mean for group in found}
        assert changes.pop("after 1") == changes.pop("after 2 to 3") == 0
        assert set(changes.values()) == {0.25}
        assert sum(group.tokens for group in found) == 21
        # A later window begins with one token of the text, or with many.
        assert (found[-1].name == "after 16 to 31") == (length == 64)


def test_where_nothing_was_lost_there_are_no_shares():
    base, tuned = planted(lambda targets, _: -0.5 * is_digit(targets))
    found = token_forgetting.measure(base, tuned, TEXTS)
    assert found.total.share_of_increase is None and found.examples == ()
    assert found.types[-1].name == "number" and found.rarity == "the texts scored"
    row = found.types[-1].row()
    assert row["group"] == "number" and row["change"] == -0.5 and row["share of increase"] is None


def test_what_cannot_be_measured_is_refused():
    base, tuned = planted(lambda *_: 0.0)
    with pytest.raises(UserError, match="every text is empty"):
        token_forgetting.measure(base, tuned, [])
    base, tuned = planted(lambda *_: np.nan)
    with pytest.raises(UserError, match="not finite"):
        token_forgetting.measure(base, tuned, TEXTS)


@pytest.fixture(scope="module")
def loaded(small):
    cfg = dataclasses.replace(small, vocab_size=BYTES.vocab_size, n_layers=1)
    params = spec.init(llama.specs(cfg), jax.random.key(0))
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, params)
    return LoadedModel(Model(params=params, adapter={}), cfg, BYTES, Origin("test", None, "0"))


def test_real_models_by_the_engine_of_every_evaluation(loaded):
    """The sums of a text are those of its evaluation; an identity adapter changes exactly nothing."""
    params, options = loaded.model.params, {"rows": 2, "length": 16}
    fresh, trained = (adapter_for(loaded.cfg, params, trained=t) for t in (False, True))
    same = token_forgetting.of_models(loaded, Model(params=params, adapter=fresh), TEXTS, **options)
    assert {group.change.mean for group in (*same.types, *same.positions)} == {0.0}
    assert {group.kl for group in same.types} == {0.0} and not same.examples

    adapted = Model(params=params, adapter=trained)
    found = token_forgetting.of_models(loaded, adapted, TEXTS, **options)
    alone = scorer.build(adapted, loaded.cfg, BYTES, make_rules(), "tuned")
    documents = [perplexity.Document(str(i), str(i), text) for i, text in enumerate(TEXTS)]
    requests = [perplexity.document_requests(one, BYTES, 16) for one in documents]
    plan = batching.plan(requests, 2, 16)
    scored = [
        one for batch in batching.score_items(plan, alone.score, np.zeros(3, bool)) for one in batch
    ]
    nll = -sum(request.ll for _, of_item in scored for request in of_item)
    got = found.total.tokens * (found.total.base_nll + found.total.change.mean)
    assert got == pytest.approx(nll, rel=1e-9)
    assert found.total.kl > 1e-3 and abs(found.total.change.mean) > 1e-3


@pytest.mark.slow
def test_parameters_that_trained(loaded):
    """The base is scored by its own, and the divergence is from them."""
    adapted = Model(
        params=loaded.model.params, adapter=adapter_for(loaded.cfg, loaded.model.params)
    )
    full = Model(params=jax.tree.map(lambda x: 1.1 * x, loaded.model.params), adapter={})
    found, other = (
        token_forgetting.of_models(loaded, tuned, TEXTS, rows=2, length=16)
        for tuned in (adapted, full)
    )
    assert other.total.base_nll == pytest.approx(found.total.base_nll, rel=1e-5)
    assert other.total.kl > 1e-3 and other.total.change.mean != found.total.change.mean
