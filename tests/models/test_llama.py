"""The decoder by itself: what may see what, packing, branches, caches. Parity with transformers is
in tests/parity."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for, packed

from lfl_jax import losses
from lfl_jax.core import tree
from lfl_jax.models import llama
from lfl_jax.models.cache import empty_cache

TOKENS = jnp.arange(24).reshape(2, 12) % 96
forward = jax.jit(llama.forward, static_argnames=("cfg",))


def test_a_hidden_state_depends_on_its_past_and_on_nothing_else(small, small_params):
    embeddings = small_params["embed"][TOKENS[:1]]

    def at(embedded, position):
        # Tokens 0..11 look themselves up in a table made of their own embeddings, so the table's
        # gradient is theirs.
        own = small_params | {"embed": embedded[0]}
        return jnp.sum(llama.forward(own, None, jnp.arange(12)[None], small)[0][0, position])

    for position in (0, 5, 11):
        reach = jnp.abs(jax.grad(at)(embeddings, position)[0]).max(axis=-1)
        assert (reach[: position + 1] > 0).all() and (reach[position + 1 :] == 0).all()


@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
def test_packed_loss_is_the_loss_of_the_documents_alone(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind)
    lengths = [[7, 12, 9], [20, 6]]
    rows = jax.tree.map(jnp.asarray, packed(lengths, 32, small.vocab_size))
    total = float(losses.nll_sum(small_params, adapter, rows, small))
    alone = 0.0
    for row, in_row in enumerate(lengths):
        for segment in range(1, len(in_row) + 1):
            here = rows["segment_ids"][row] == segment
            document = {name: jnp.asarray(x[row, here])[None] for name, x in rows.items()}
            alone += float(losses.nll_sum(small_params, adapter, document, small))
    assert abs(total - alone) < 1e-4 * total
    leaking = rows | {"segment_ids": jnp.minimum(rows["segment_ids"], 1)}
    assert abs(float(losses.nll_sum(small_params, adapter, leaking, small)) - total) > 1e-3 * total


def test_branches_share_their_trunk_and_not_each_other(small, small_params):
    trunk, ends = [3, 14, 15, 9], ([26, 5, 35], [8, 9, 7, 9])
    tokens = jnp.array([[*trunk, *ends[0], *ends[1]]])
    branches = jnp.array([[0] * 4 + [1] * 3 + [2] * 4])
    positions = jnp.array([[0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7]])
    together = forward(small_params, None, tokens, small, positions=positions, branch_ids=branches)[
        0
    ][0]
    for end, here in zip(ends, (slice(4, 7), slice(7, 11)), strict=True):
        alone = forward(small_params, None, jnp.array([[*trunk, *end]]), small)[0][0]
        np.testing.assert_allclose(together[here], alone[4:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_cache_continues_left_padded_prompts(stacked, small, small_params):
    loop = small_params | {"layers": tree.unstack(small_params["layers"], small.n_layers)}
    params = small_params if stacked else loop
    whole = forward(small_params, None, TOKENS, small)[0]
    segments = jnp.array([[1] * 8, [0] * 3 + [1] * 5])
    prompt = jnp.stack([TOKENS[0, :8], jnp.concatenate([jnp.zeros(3, int), TOKENS[1, :5]])])
    positions = jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0)
    cache = empty_cache(params, small, 2, 10)
    options = {"cache": cache, "segment_ids": segments, "positions": positions}
    hidden, cache = forward(params, None, prompt, small, **options)
    np.testing.assert_allclose(hidden[0], whole[0, :8], rtol=0, atol=1e-5)
    np.testing.assert_allclose(hidden[1, 3:], whole[1, :5], rtol=0, atol=1e-5)
    following = jnp.array([[TOKENS[0, 8]], [TOKENS[1, 5]]])
    hidden, _ = forward(
        params, None, following, small, cache=cache, positions=positions[:, -1:] + 1
    )
    np.testing.assert_allclose(hidden[0, 0], whole[0, 8], rtol=0, atol=1e-5)
    np.testing.assert_allclose(hidden[1, 0], whole[1, 5], rtol=0, atol=1e-5)


def test_dropout_needs_a_key_and_draws_from_it(small, small_params):

    cfg = dataclasses.replace(small, attention_dropout=0.3, adapter_dropout=0.3)
    adapter = adapter_for(small, small_params)
    plain = forward(small_params, adapter, TOKENS, small)[0]
    np.testing.assert_array_equal(forward(small_params, adapter, TOKENS, cfg)[0], plain)
    draws = [
        forward(small_params, adapter, TOKENS, cfg, key=jax.random.key(i))[0] for i in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2]) and not np.array_equal(draws[0], plain)


def test_a_window_is_over_positions_whatever_else_the_row_holds(small, small_params):
    """Packed documents, branches, and decoding behind a shared prefix and padding; test_hf compares
    plain rows."""
    cfg = dataclasses.replace(small, window=4)
    tokens = np.asarray(TOKENS[0])
    whole = forward(small_params, None, TOKENS[:1], cfg)[0][0]
    assert np.abs(whole - forward(small_params, None, TOKENS[:1], small)[0][0]).max() > 1e-2
    both = jnp.asarray(np.concatenate([tokens, tokens]))[None]
    segments, positions = jnp.array([[1] * 12 + [2] * 12]), jnp.array([[*range(12)] * 2])
    packed_row = forward(small_params, None, both, cfg, positions=positions, segment_ids=segments)[
        0
    ][0]
    np.testing.assert_allclose(packed_row, jnp.concatenate([whole, whole]), rtol=0, atol=1e-5)
    branched = jnp.asarray(np.concatenate([tokens, tokens[7:]]))[None]
    branches, positions = (
        jnp.array([[0] * 7 + [1] * 5 + [2] * 5]),
        jnp.array([[*range(12), *range(7, 12)]]),
    )
    ends = forward(small_params, None, branched, cfg, positions=positions, branch_ids=branches)[0][
        0
    ]
    np.testing.assert_allclose(ends[7:], jnp.concatenate([whole[7:], whole[7:]]), rtol=0, atol=1e-5)
    _, cache = forward(
        small_params, None, TOKENS[:1, :5], cfg, cache=empty_cache(small_params, cfg, 1, 16)
    )
    segments, positions = jnp.array([[0] * 4 + [1] * 7]), jnp.array([[5] * 5 + [*range(6, 12)]])
    padded = jnp.concatenate([jnp.zeros((1, 4), int), TOKENS[:1, 5:]], axis=1)
    rest, _ = forward(
        small_params, None, padded, cfg, cache=cache, segment_ids=segments, positions=positions
    )
    np.testing.assert_allclose(rest[0, 4:], whole[5:], rtol=0, atol=1e-5)


def test_biases_are_declared_beside_their_weights(small):
    declared = llama.specs(dataclasses.replace(small, qkv_bias=True, o_bias=True, mlp_bias=True))[
        "layers"
    ]
    for group, names in llama.BIASES.items():
        for name in names:
            weight = (declared["attn"] | declared["mlp"])[name]
            bias = declared[group][name]
            assert (bias.shape, bias.axes) == (
                (small.n_layers, weight.shape[-1]),
                ("layers", weight.axes[-1]),
            )


def test_a_profile_reads_like_the_code(small, small_params):
    """Every phase of a step is under a named scope, forward and backward."""
    batch = jax.tree.map(jnp.asarray, packed([[7, 9]], 16, small.vocab_size))
    adapter = adapter_for(small, small_params)
    step = jax.jit(jax.grad(lambda a: losses.nll_sum(small_params, a, batch, small)))
    program = step.lower(adapter).as_text(debug_info=True)
    scopes = ("embed", "attention", "mlp", "attention/adapters", "mlp/adapters", "final_norm")
    for scope in (*scopes, "loss", "head"):
        assert re.search(rf"[\"/(]{scope}[/)]", program), scope
