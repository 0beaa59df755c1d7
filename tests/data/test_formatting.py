"""Where the loss falls in one example."""

import dataclasses

import numpy as np
import pytest
from data.reference import encode_example

from lfl_jax.data.examples import Example
from lfl_jax.data.formatting import find_template, prompt_ids, token_ids
from lfl_jax.errors import UserError

EXAMPLE = Example("1+1?", "It is 2", "ex0", "c0")
PROMPT, RESPONSE = "Question: 1+1?\nAnswer:", " It is 2"


def encoded(tokenizer, example=EXAMPLE, **options):
    return encode_example(example, 5, tokenizer, **options)


def test_targets_are_the_next_tokens_and_weights_the_response_and_its_eos(tokenizer):
    ids = [tokenizer.bos_id, *PROMPT.encode(), *RESPONSE.encode(), tokenizer.eos_id]
    found = encoded(tokenizer)
    assert found["tokens"].tolist() == ids[:-1]
    assert found["targets"].tolist() == ids[1:]
    trained = [
        t for t, w in zip(found["targets"].tolist(), found["weights"], strict=True) if w == 1
    ]
    assert trained == [*RESPONSE.encode(), tokenizer.eos_id]
    assert found["weights"].sum() == len(trained), "weights are 0 or 1"
    assert found["example_ids"].tolist() == [5] * (len(ids) - 1)
    assert {k: v.dtype for k, v in found.items()} == {
        "tokens": np.int32, "targets": np.int32, "weights": np.float32, "example_ids": np.int32,
    }  # fmt: skip


def test_the_last_prompt_token_predicts_the_first_response_token(tokenizer):
    found = encoded(tokenizer)
    first = int(found["weights"].argmax())
    assert found["tokens"][first] == ord(":")
    assert found["targets"][first] == ord(" ")


def test_bos_only_where_the_tokenizer_adds_it_and_never_twice(tokenizer):
    without = dataclasses.replace(tokenizer, add_bos=False)
    assert prompt_ids("a", tokenizer) == [tokenizer.bos_id, 97]
    assert prompt_ids(tokenizer.bos + "a", tokenizer) == [tokenizer.bos_id, 97]
    assert prompt_ids("a", without) == [97]
    assert encoded(without)["tokens"][0] == ord("Q")
    assert encoded(without)["weights"].sum() == encoded(tokenizer)["weights"].sum()


def test_training_begins_with_the_ids_that_generation_is_prompted_with(tokenizer):
    ids, loss = token_ids(EXAMPLE, find_template("plain"), tokenizer)
    assert ids[: loss.index(True)] == prompt_ids(PROMPT, tokenizer)


def test_the_response_is_encoded_as_a_continuation(tokenizer):
    marked = dataclasses.replace(tokenizer, encode_continuation=lambda text: [1, 2, 3])
    assert encoded(marked)["targets"].tolist()[-4:] == [1, 2, 3, tokenizer.eos_id]


def test_a_template_changes_the_tokens(tokenizer):
    assert len(encoded(tokenizer, template="alpaca", seq_len=999)["tokens"]) > len(
        encoded(tokenizer)["tokens"]
    )


LENGTH = 1 + len(PROMPT) + len(RESPONSE)  # BOS counts, the last target does not
N_PROMPT = 1 + len(PROMPT)


def test_an_example_as_long_as_the_row_fits(tokenizer):
    for too_long in ("error", "skip", "truncate"):
        assert len(encoded(tokenizer, seq_len=LENGTH, too_long=too_long)["tokens"]) == LENGTH


def test_too_long_is_an_error_that_names_the_example(tokenizer):
    with pytest.raises(
        UserError, match=rf"example ex0 has {LENGTH} tokens \({N_PROMPT} .*seq_len={LENGTH - 1}"
    ):
        encoded(tokenizer, seq_len=LENGTH - 1)
    with pytest.raises(UserError, match="example ex0"):
        encoded(tokenizer, seq_len=10)


def test_too_long_is_skipped_whole(tokenizer):
    assert encoded(tokenizer, seq_len=LENGTH - 1, too_long="skip") is None


def test_too_long_is_cut_at_the_end(tokenizer):
    whole, cut = encoded(tokenizer), encoded(tokenizer, seq_len=LENGTH - 3, too_long="truncate")
    for name, values in cut.items():
        assert values.tolist() == whole[name][: LENGTH - 3].tolist()
    assert tokenizer.eos_id not in cut["targets"]


def test_a_cut_leaves_a_response_token_or_nothing(tokenizer):
    assert encoded(tokenizer, seq_len=N_PROMPT, too_long="truncate")["weights"].sum() == 1
    assert encoded(tokenizer, seq_len=N_PROMPT - 1, too_long="truncate") is None


def test_an_unknown_template_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'alpaka' is unknown; there are: plain, bare, alpaca"):
        find_template("alpaka")
