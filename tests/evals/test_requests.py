"""Text to ids: the border of context and continuation, BOS, truncation, rolling windows."""

import dataclasses

import pytest

from lfl_jax.errors import UserError
from lfl_jax.evals import requests
from lfl_jax.evals.requests import Request


def texts(tokenizer, *pairs, length=100):
    return [(r.context, r.continuation) for r in requests.encode_pairs(pairs, tokenizer, length)]


def ids(tokenizer, text):
    return tuple(tokenizer.encode(text))


def test_white_space_moves_to_the_continuation(tokenizer):
    expected = [(ids(tokenizer, "a b"), ids(tokenizer, " c d"))]
    assert texts(tokenizer, ("a b ", "c d")) == texts(tokenizer, ("a b", " c d")) == expected


def test_a_token_over_the_border_counts_as_context(tokenizer):
    # "Answer:" is two tokens; in "Answer: 9" the colon takes the space, so one token is left to
    # score
    assert len(ids(tokenizer, "Answer: 9")) == 3
    assert texts(tokenizer, ("Answer:", " 9")) == [(ids(tokenizer, "Answer:"), ids(tokenizer, "9"))]


def test_empty_context_is_bos_or_eos(tokenizer, toy):
    without = dataclasses.replace(tokenizer, bos_id=None, bos=None)
    assert texts(tokenizer, ("", "a b")) == [((toy.BOS,), ids(tokenizer, "a b"))]
    assert texts(without, ("", "a b")) == [((toy.EOS,), ids(tokenizer, "a b"))]
    assert texts(tokenizer, ("", "<bos>a b")) == [((toy.BOS,), ids(tokenizer, "a b"))]


def test_bos_is_added_once(tokenizer, toy):
    adding = dataclasses.replace(tokenizer, add_bos=True)
    expected = [((toy.BOS, *ids(tokenizer, "a")), ids(tokenizer, " b"))]
    assert texts(adding, ("a", " b")) == texts(adding, ("<bos>a", " b")) == expected
    assert texts(adding, ("", "b")) == [((toy.BOS,), ids(tokenizer, "b"))]


def test_long_contexts_lose_their_beginning():
    request = Request((1, 2, 3, 4, 5), (6, 7))
    assert requests.truncate(request, 6) is request
    # lm-evaluation-harness: (context + continuation)[-(4 + 1):], of which the last is not read
    assert requests.truncate(request, 4) == Request((3, 4, 5), (6, 7), truncated=True)
    assert requests.truncate(request, 2) == Request((5,), (6, 7), truncated=True)


def test_too_long_a_continuation_is_refused():
    with pytest.raises(
        UserError, match=r"continuation of 3 tokens does not fit .* 2; raise config.eval.seq_len"
    ):
        requests.truncate(Request((1,), (2, 3, 4)), 2)


def test_rolling_windows_are_the_harness_s(synthetic):
    for n, length, expected in synthetic["windows"]:
        found = requests.rolling(range(n), -1, length)
        assert [[list(r.context), list(r.continuation)] for r in found] == expected
        assert all(len(r.ids) - 1 <= length for r in found)
    assert len(synthetic["windows"]) == 72
