"""The chunked head and loss against all logits at once: values, gradients, and which positions are
computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax.kernels.linear_cross_entropy import chunks
from lfl_jax.kernels.linear_cross_entropy import reference as lce


def inputs(b=3, t=150, d=8, v=40, keep=0.6, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    hidden, head = jax.random.normal(keys[0], (b, t, d)), jax.random.normal(keys[1], (v, d))
    targets = jax.random.randint(keys[2], (b, t), 0, v)
    return hidden, head, targets, (jax.random.uniform(keys[3], (b, t)) < keep).astype(jnp.float32)


@pytest.mark.parametrize(("t", "keep"), [(150, 0.6), (64, 1.0), (1, 1.0), (130, 0.01), (10, 0.0)])
@pytest.mark.parametrize("logits", [0, chunks.LOGITS])
def test_values_and_gradients_equal_the_plain_form(t, keep, logits, monkeypatch):
    monkeypatch.setattr(chunks, "LOGITS", logits)  # rounds of 64 and of 128 positions
    hidden, head, targets, weights = inputs(t=t, keep=keep)
    both = [
        jax.value_and_grad(lambda h, w, f=f: 0.5 * f(h, w, targets, weights), argnums=(0, 1))(
            hidden, head
        )
        for f in (lce.weighted_nll_sum, lce.naive_sum)
    ]
    (value, grads), (wanted, wanted_grads) = both
    np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    for got, want in zip(grads, wanted_grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_weights_scale_each_position_s_loss_and_gradients():
    hidden, head, targets, weights = inputs()
    scaled = weights * jnp.linspace(0.5, 2, 150)
    (value, grads), (wanted, wanted_grads) = (
        jax.value_and_grad(lambda h, w, f=f: f(h, w, targets, scaled), argnums=(0, 1))(hidden, head)
        for f in (lce.weighted_nll_sum, lce.naive_sum)
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for got, want in zip(grads, wanted_grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_token_nll_is_in_place_and_zero_elsewhere():
    hidden, head, targets, weights = inputs()
    nll, greedy = lce.token_nll(hidden, head, targets, weights)
    logp = jax.nn.log_softmax(hidden @ head.T)
    wanted = -jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(nll, jnp.where(weights > 0, wanted, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(greedy, (jnp.argmax(logp, -1) == targets) & (weights > 0))


def test_positions_without_weight_are_never_looked_at():
    hidden, head, targets, weights = inputs(keep=0.2)
    poisoned = jnp.where(weights[..., None] > 0, hidden, jnp.nan)
    value, grad = jax.value_and_grad(lce.weighted_nll_sum)(poisoned, head, targets, weights)
    assert jnp.isfinite(value) and jnp.isfinite(grad).all()
    np.testing.assert_allclose(
        value, lce.weighted_nll_sum(hidden, head, targets, weights), rtol=1e-6
    )


def test_all_logits_are_never_held():
    hidden, head, targets, weights = inputs(b=2, t=1024, d=16, v=4096)
    grad = jax.jit(jax.value_and_grad(lce.weighted_nll_sum))
    memory = grad.lower(hidden, head, targets, weights).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2 * 1024 * 4096 * 4 / 2


def test_a_round_takes_twice_the_positions_where_their_logits_fit():
    vocabulary = 49152
    fitting = chunks.LOGITS // (128 * vocabulary * 4)  # rows
    assert chunks.positions_per_round(fitting, vocabulary) == 128
    assert chunks.positions_per_round(fitting + 1, vocabulary) == 64
    assert chunks.positions_per_round(768, 32000) == 64
