"""The base and an identity adapter score bit-exactly alike: an identity adapter forgets exactly 0."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import adapter_for, packed

import lfl_jax
from lfl_jax import sample
from lfl_jax.core.sharding import make_rules
from lfl_jax.data import formatting
from lfl_jax.evals import scorer
from lfl_jax.model import Model
from lfl_jax.text import tokenizers
from lfl_jax.text.tokenizers import byte_tokenizer

RULES = make_rules()
TINY_LLAMA = Path(__file__).parents[1] / "fixtures" / "tiny_llama"


def rows(small):
    batch = packed([[7, 12, 9], [20, 6]], 32, small.vocab_size)
    return batch | {"branch_ids": np.zeros_like(batch["tokens"])}


def build(small, params, adapter, **options):
    model = Model(params=params, adapter=adapter)
    return scorer.build(model, small, byte_tokenizer(), RULES, "test", generate_rows=2, **options)


@pytest.mark.parametrize("kind", ["lora", "dora", "lora+dora"])
def test_an_identity_adapter_forgets_exactly_nothing(kind, small, small_params):
    fresh, trained = (adapter_for(small, small_params, kind, trained=t) for t in (False, True))
    base = build(small, small_params, trained, adapted=False).score(rows(small))
    identity = build(small, small_params, fresh).score(rows(small))
    tuned = build(small, small_params, trained).score(rows(small))
    np.testing.assert_array_equal(identity[0], base[0])
    np.testing.assert_array_equal(identity[1], base[1])
    assert (
        np.abs(tuned[0] - base[0]).max() > 1e-3
        and (base[0] > 0).sum() == (rows(small)["weights"] > 0).sum()
    )


def test_it_compares_a_model_with_its_base(small, small_params):
    """The base is the model with routing weights 0, or over parameters that are asked for once."""
    trained, batch, asked = adapter_for(small, small_params), rows(small), []

    def base_params():
        asked.append(None)
        return small_params

    # No adapter's base is the model itself: nothing is known that it came from.
    base = build(small, small_params, trained, adapted=False).diverge(batch)
    alone = build(small, small_params, {}).diverge(batch)
    assert not np.any(base) and not np.any(alone)
    tuned = build(small, small_params, trained).diverge(batch)
    full = build(small, jax.tree.map(lambda x: x * 1.1, small_params), {}, base_params=base_params)
    changed = [full.diverge(batch) for _ in range(2)][1]
    assert len(asked) == 1
    for forward, reverse in (tuned, changed):
        counted = rows(small)["weights"] > 0
        assert np.all(forward[counted] > 0) and np.all(reverse[counted] > 0)
        assert not forward[~counted].any() and not reverse[~counted].any()


def test_generation_pads_its_batch_and_follows_the_routing(small, small_params):
    trained = adapter_for(small, small_params)
    options = {"max_new_tokens": 6, "stop": (), "example_ids": [4]}
    prompts = [[65, 66, 67]]
    base, tuned = (
        build(small, small_params, trained, adapted=a).generate(prompts, **options)
        for a in (False, True)
    )
    assert len(base) == len(tuned) == 1 and base != tuned
    assert build(small, small_params, {}).generate(prompts, **options) == base


def test_it_decodes_from_the_weights_it_was_given(small, small_params, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sample,
        "generate",
        lambda model, prompts, *_, **__: seen.append(model) or [[65]] * len(prompts),
    )
    tuned = build(small, small_params, {})
    for _ in range(2):
        tuned.generate([[65]], max_new_tokens=1, stop=(), example_ids=[0])

    # prepared once, for all batches; what is not copied transposed is in the memory it was in
    assert seen[0] is seen[1]
    assert seen[0].params["embed"] is small_params["embed"]
    for i, layer in enumerate(seen[0].params["layers"]):
        down, norm = layer["mlp"]["down"], layer["attn_norm"]
        np.testing.assert_array_equal(down.rows.T, small_params["layers"]["mlp"]["down"][i])
        given = small_params["layers"]["attn_norm"]
        row_bytes = given[0].nbytes
        assert norm.unsafe_buffer_pointer() == given.unsafe_buffer_pointer() + i * row_bytes


def test_a_text_that_the_model_ended_shows_its_eos(small, small_params):
    options = {"max_new_tokens": 6, "stop": (), "example_ids": [4]}
    prompts, tokenizer = [[65, 66, 67]], byte_tokenizer()
    model = Model(params=small_params, adapter={})
    free = sample.generate(
        sample.unstacked(model, small.n_layers), prompts, small, max_new_tokens=6, eos_id=-1
    )[0]
    ending = dataclasses.replace(tokenizer, eos_id=free[2])
    texts = [
        scorer.build(model, small, each, RULES, "test", generate_rows=2).generate(
            prompts, **options
        )[0]
        for each in (tokenizer, ending)
    ]
    assert not texts[0].endswith("<|eos|>")
    assert texts[1] == tokenizer.decode(free[: free.index(free[2]) + 1]) + "<|eos|>"


def test_what_follows_a_prompt_keeps_its_leading_space(small, small_params, monkeypatch):
    """SentencePiece takes the first space of a text for its own; in code it is part of the
    indentation."""
    tokenizer = tokenizers.from_sentencepiece(TINY_LLAMA / "tokenizer.model")
    prompt, answer = "def f(x):\n", "    return x"
    row = tokenizer.encode_continuation(answer)
    monkeypatch.setattr(sample, "generate", lambda model, prompts, *_, **__: [row] * len(prompts))
    model = Model(params=small_params, adapter={})
    tuned = scorer.build(model, small, tokenizer, RULES, "test", generate_rows=2)
    ids = formatting.prompt_ids(prompt, tokenizer)
    assert tuned.generate([ids], max_new_tokens=9, stop=(), example_ids=[0]) == [answer]
    assert lfl_jax.generate(small_params, small, tokenizer, [prompt, prompt]) == [answer] * 2
    assert lfl_jax.generate(small_params, small, tokenizer, prompt, stop=["  return"]) == ["  "]
