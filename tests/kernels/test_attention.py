"""Every implementation of attention against a float32 numpy restatement, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax.kernels.attention import attention, blocked
from lfl_jax.kernels.attention.reference import reference


def inputs(t, h=4, n_kv=2, p=8, b=2, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    q, k, v = (jax.random.normal(key, (b, t, n, p)) for key, n in zip(keys, (h, n_kv, n_kv), strict=False))
    segments = jnp.sort(jax.random.randint(keys[3], (b, t), 1, 4), axis=1)
    mask = jnp.tril(jnp.ones((t, t), bool)) & (segments[:, :, None] == segments[:, None, :])
    return q, k, v, mask


def plain(q, k, v, mask):
    q, k, v, mask = map(np.asarray, (q, k, v, mask))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("bthp,bshp->bhts", q, k) / np.sqrt(q.shape[-1], dtype=np.float32)
    scores = np.where(mask[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhts,bshp->bthp", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("t", [1, 17, 128, 300])
@pytest.mark.parametrize("implementation", [reference, blocked, attention], ids=lambda f: f.__name__)
def test_values(implementation, t):
    np.testing.assert_allclose(implementation(*inputs(t)), plain(*inputs(t)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("t", [17, 300])
def test_gradients_of_the_blocked_form_are_those_of_the_plain_one(t):
    *qkv, mask = inputs(t)
    cotangent = jax.random.normal(jax.random.key(9), qkv[0].shape)
    got, wanted = (
        jax.grad(lambda *x, f=f: jnp.sum(f(*x, mask) * cotangent), argnums=(0, 1, 2))(*qkv)
        for f in (blocked, reference)
    )
    for x, y in zip(got, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def test_dropout_and_caches_take_the_plain_form():
    q, k, v, mask = inputs(20)
    dropped = attention(q, k, v, mask, dropout=0.5, key=jax.random.key(0))
    assert float(jnp.abs(dropped - blocked(q, k, v, mask)).max()) > 0.1
    cached = attention(q[:, -1:], k, v, mask[:, -1:])
    np.testing.assert_allclose(cached, blocked(q, k, v, mask)[:, -1:], rtol=0, atol=1e-5)
