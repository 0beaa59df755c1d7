"""KL between a base and what was tuned from it: against float64, exact zeros, chunks, cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for, packed, same_up_to_rounding

from lfl_jax import adapters, losses
from lfl_jax.analysis import divergence
from lfl_jax.analysis.divergence import Outputs, Variant
from lfl_jax.core import spec
from lfl_jax.kernels.linear_cross_entropy.chunks import positions_per_round
from lfl_jax.model import Model
from lfl_jax.models import llama


def rows(small, lengths=((7, 12, 9), (20, 6))):
    batch = packed(lengths, 32, small.vocab_size)
    return {name: jnp.asarray(x) for name, x in batch.items()}


def routed(params, adapter, weight):
    members = adapters.member_count(adapter)
    routing = jnp.full((2, members), float(weight)) if members else None
    return Variant(Model(params=params, adapter=adapter), routing)


def outputs(variant, batch, cfg):
    params, adapter = variant.model.params, variant.model.adapter
    hidden = losses.hidden_states(params, adapter, batch, cfg, routing=variant.routing)
    return Outputs(hidden, llama.head(params))


def in_float64(base, tuned, weights):
    """The definition, of whole logits: sums of p (log p - log q)."""

    def log_softmax(output):
        logits = np.asarray(output.hidden, np.float64) @ np.asarray(output.head, np.float64).T
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    log_p, log_q = log_softmax(base), log_softmax(tuned)
    forward = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    reverse = (np.exp(log_q) * (log_q - log_p)).sum(axis=-1)
    counted = np.asarray(weights) > 0
    return divergence.Divergence(forward * counted, reverse * counted)


def variants(small, params, name):
    """(base, tuned): the same parameters with an adapter, merged ones, and others."""
    adapter = adapter_for(small, params)
    unmerged = routed(params, adapter, 0), routed(params, adapter, 1)
    # Of every weight, by a value of its own.
    other = spec.init(llama.specs(small), jax.random.key(5))
    full = routed(jax.tree.map(lambda x, y: x + 0.5 * y, params, other), {}, 1)
    merged = routed(adapters.merge(adapter, params), {}, 1)
    alone = routed(params, {}, 1)
    return {"unmerged": unmerged, "merged": (alone, merged), "full": (alone, full)}[name]


@pytest.mark.parametrize("name", ["unmerged", "merged", "full"])
def test_it_is_the_definition_in_float64(small, small_params, name):
    batch, pair = rows(small), variants(small, small_params, name)
    base, tuned = (outputs(variant, batch, small) for variant in pair)
    got = divergence.of_variants(*pair, batch, small)
    want = in_float64(base, tuned, batch["weights"])
    assert want.forward.max() > 0.1
    assert np.abs(want.forward - want.reverse).max() > 0.01, "directions differ"
    same_up_to_rounding(got, want, jax.jit(divergence.per_token), base, tuned, batch["weights"])


@pytest.mark.parametrize(
    "kind",
    [
        "lora+dora",
        None,
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("lora", "ia3", "mora")),
    ],
)
def test_it_is_exactly_zero_where_nothing_changed(small, small_params, kind):
    fresh, trained = (
        adapter_for(small, small_params, kind, trained=t) if kind else {} for t in (False, True)
    )
    batch = rows(small)
    for adapter, weight in ((fresh, 1), (trained, 0)):
        base, same = (routed(small_params, adapter, w) for w in (0, weight))
        for direction in divergence.of_variants(base, same, batch, small):
            np.testing.assert_array_equal(direction, 0)
    # Equal parameters in other buffers, as a base that was read a second time.
    copy = routed(jax.tree.map(jnp.copy, small_params), trained, 0)
    for direction in divergence.of_variants(copy, base, batch, small):
        np.testing.assert_array_equal(direction, 0)


def test_merged_against_unmerged_is_the_floor_of_rounding(small, small_params):
    adapter = adapter_for(small, small_params)
    merged = routed(adapters.merge(adapter, small_params), {}, 1)
    batch = rows(small)
    floor = divergence.of_variants(routed(small_params, adapter, 1), merged, batch, small)
    assert 0 < floor.forward.max() < 1e-9
    assert min(x.min() for x in floor) >= 0, "no divergence is negative, as small as it is"


def test_tiny_and_huge_divergences_keep_their_digits():
    base = 3 * jax.random.normal(jax.random.key(0), (1, 4, 500))
    for scale in (1e-4, 1e-2, 1.0, 30.0):
        tuned = base + scale * jax.random.normal(jax.random.key(1), base.shape)
        eye = jnp.eye(500)
        want = in_float64(Outputs(base, eye), Outputs(tuned, eye), jnp.ones((1, 4)))
        for got, wanted in zip(divergence.of_logits(base, tuned), want, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=2e-3 if scale < 1e-3 else 1e-4)
    far = divergence.of_logits(base * 1e4, -base * 1e4)
    assert bool(jnp.isfinite(far.forward).all() & jnp.isfinite(far.reverse).all())


def test_chunks_change_nothing_but_rounding(small, small_params):
    batch, pair = rows(small), variants(small, small_params, "full")
    base, tuned = (outputs(variant, batch, small) for variant in pair)
    whole = in_float64(base, tuned, batch["weights"])
    # 14 positions of the fuller row count: five rounds, the last filled up, and a single one.
    for chunk in (3, 100):
        jitted = jax.jit(divergence.per_token, static_argnames="chunk")
        parts = jitted(base, tuned, batch["weights"], chunk=chunk)
        for one, other in zip(parts, whole, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_the_logits_are_never_in_memory_at_once():
    """Of 512 positions, 32 at a time: the temporaries are a fraction of (B, T, V) logits."""
    b, t, d, v = 2, 512, 8, 4096
    output = Outputs(jnp.zeros((b, t, d)), jnp.zeros((v, d)))
    compiled = jax.jit(divergence.per_token).lower(output, output, jnp.ones((b, t))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < b * t * v * 4 / 2


def test_it_costs_at_most_two_and_a_half_times_the_nll(small, small_params):
    """Operations that XLA counts; it counts a loop's body once, so both loops have one round."""
    batch = {name: jnp.asarray(x) for name, x in packed([[64], [64]], 64, 96).items()}
    chunk = positions_per_round(2, small.vocab_size)

    def both(params, other, batch):
        base, tuned = (outputs(routed(p, {}, 1), batch, small) for p in (params, other))
        return divergence.per_token(base, tuned, batch["weights"], chunk=chunk)

    def flops(function, *args):
        return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]

    nll = flops(
        lambda params, batch: losses.per_token(params, {}, batch, small), small_params, batch
    )
    assert 1.9 < flops(both, small_params, small_params, batch) / nll < 2.5
