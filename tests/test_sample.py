"""Batched decoding against decoding one prompt at a time with full forward passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for

from lfl_jax import adapters, sample
from lfl_jax.core import spec, tree
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.cache import empty_cache

PROMPTS = [[5, 17, 3, 60], [40, 2], [9, 9, 33, 71, 12, 8, 90]]
EOS = 95


forward = jax.jit(llama.forward, static_argnames=("cfg",))


def naive(params, adapter, prompt, cfg, count):
    tokens = list(prompt)
    for _ in range(count):
        # what follows cannot matter: attention is causal
        padded = tokens + [0] * (16 - len(tokens))
        hidden = forward(params, adapter, jnp.array([padded]), cfg)[0][0, len(tokens) - 1]
        tokens.append(int(jnp.argmax(llama.logits(params, hidden))))
    return tokens[len(prompt) :]


def decode(params, adapter, cfg, prompts=PROMPTS, count=5, stacked=False, **options):
    model = Model(params=params, adapter=adapter)
    model = model if stacked else sample.unstacked(model, cfg.n_layers)
    return sample.generate(model, prompts, cfg, max_new_tokens=count, eos_id=EOS, **options)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("kind", [None, "lora", "dora"])
def test_greedy_decoding_equals_full_forward_passes(kind, stacked, small, small_params):
    adapter = adapter_for(small, small_params, kind) if kind else {}
    wanted = [naive(small_params, adapter, p, small, 5) for p in PROMPTS]
    assert decode(small_params, adapter, small, stacked=stacked) == [
        w[: w.index(EOS) + 1] if EOS in w else w for w in wanted
    ]


def test_eos_and_stop_texts_end_a_row(small, small_params):
    free = decode(small_params, {}, small, count=40)
    model = sample.unstacked(Model(params=small_params, adapter={}), small.n_layers)
    eos = free[0][2]
    ended = sample.generate(model, PROMPTS, small, max_new_tokens=40, eos_id=eos)
    assert ended[0] == free[0][: free[0].index(eos) + 1]
    seen = []
    sample.generate(
        model,
        PROMPTS,
        small,
        max_new_tokens=96,
        eos_id=EOS,
        stop=lambda row: seen.append(len(row)) or True,
    )
    assert max(seen) <= sample.ROUND, "every row stopped, so one round was enough"


def test_a_row_is_drawn_by_its_id_and_not_by_its_neighbours(small, small_params):
    options = {"temperature": 1.0, "seed": 3, "count": 12}
    together = decode(small_params, {}, small, ids=[7, 8, 9], **options)
    alone = decode(small_params, {}, small, prompts=PROMPTS[1:2], ids=[8], **options)
    assert together[1] == alone[0]
    assert decode(small_params, {}, small, ids=[17, 18, 19], **options) != together
    assert decode(small_params, {}, small, ids=[7, 8, 9], top_p=1e-6, **options) == decode(
        small_params, {}, small, count=12
    )


def test_gates_decide_by_row_which_adapter_decodes(small, small_params):
    adapter = adapter_for(small, small_params)
    routing = jnp.array([[1.0], [0.0], [1.0]])
    mixed = decode(small_params, adapter, small, routing=routing)
    assert mixed[1] == decode(small_params, {}, small)[1]
    assert mixed[0] == decode(small_params, adapter, small)[0] != decode(small_params, {}, small)[0]


def test_sampling_follows_the_distribution():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    kept = sample._nucleus(jnp.stack([logits, logits]), 0.79)
    np.testing.assert_array_equal(jnp.isfinite(kept[0]), [True, True, False, False])
    draws = jax.vmap(lambda k: jax.random.categorical(k, kept[0]))(
        jax.random.split(jax.random.key(0), 2000)
    )
    np.testing.assert_allclose(jnp.mean(draws == 0), 0.5 / 0.8, atol=0.05)


@pytest.mark.parametrize("stacked", [False, True])
def test_what_prompts_share_is_computed_once(stacked, small, small_params, monkeypatch):
    rng = np.random.default_rng(0)
    common = rng.integers(1, 96, sample.BUCKET + 9).tolist()
    prompts = [[*common, *rng.integers(1, 96, n).tolist()] for n in (1, 5, 30)]
    model = Model(params=small_params, adapter=adapter_for(small, small_params))
    model = model if stacked else sample.unstacked(model, 3)
    long = dataclasses.replace(small, max_seq_len=512)

    def texts(routing=None):
        return sample.generate(model, prompts, long, max_new_tokens=12, eos_id=0, routing=routing)

    assert sample._shared_prefix(prompts, None) == sample.BUCKET
    assert sample._shared_prefix([common[: sample.BUCKET]] * 2, None) == 0, (
        "a token is left to decode from"
    )
    ones = jnp.ones((3, 1))
    assert sample._shared_prefix(prompts, ones) == sample.BUCKET
    assert sample._shared_prefix(prompts, ones.at[1].set(0)) == 0
    found, gated = texts(), texts(ones)
    monkeypatch.setattr(sample, "_shared_prefix", lambda prompts, routing: 0)
    assert found == gated == texts() and len({tuple(row) for row in found}) == 3


def test_decoding_from_stacked_layers_copies_one_layer_at_a_time(small):
    cfg = dataclasses.replace(small, n_layers=12)
    params = spec.init(llama.specs(cfg), jax.random.key(0))
    cache = empty_cache(params, cfg, 2, 64)
    ids = jnp.zeros(2, jnp.int32)
    state = sample.Decoding(cache, ids, ids, ids == 1, jax.random.split(jax.random.key(0), 2))
    model = Model(params=params, adapter={})
    decoder = sample.Decoder(model, jnp.float32(0), jnp.float32(1), EOS, cfg, greedy=True)
    compiled = sample._round.lower(decoder, state, None).compile()
    one = tree.nbytes((params["layers"], cache.k, cache.v)) / cfg.n_layers
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * one


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("stacked", [False, True])
def test_the_last_quarter_of_a_batch_goes_on_alone(
    temperature, stacked, small, small_params, monkeypatch
):
    """Rows use adapters of their own, so that a row in another's place would say something else."""
    member = adapter_for(small, small_params, "lora")
    adapter = adapters.stack(member, adapters.scale(member, 0.5))
    model = Model(params=small_params, adapter=adapter)
    model = model if stacked else sample.unstacked(model, small.n_layers)
    prompts = [[7 + i, 3, 60 - i] for i in range(9)]

    def texts(**options):
        never, routing = small.vocab_size, np.array([0, 1, -1] * 3)
        options |= {
            "max_new_tokens": 96,
            "eos_id": never,
            "temperature": temperature,
            "routing": routing,
        }
        return sample.generate(model, prompts, small, **options)

    whole = texts()
    going_on = [whole[2], whole[7]]
    assert whole[2] != whole[7]

    sizes, take = [], sample._take
    monkeypatch.setattr(
        sample, "_take", lambda state, rows: sizes.append(len(rows)) or take(state, rows)
    )
    stop = lambda row: row[:8] not in [text[:8] for text in going_on]  # noqa: E731
    found = texts(stop=stop)
    assert [found[2], found[7]] == going_on
    assert all(
        row == text[: sample.ROUND]
        for row, text in zip(found, whole, strict=True)
        if text not in going_on
    )
    assert sizes == [3], "one batch of a quarter, once"
