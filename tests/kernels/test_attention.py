"""Every implementation of attention against a float32 numpy restatement, forward and backward."""

import dataclasses
import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax.core.sharding import make_rules, platform
from lfl_jax.core.tree import unstack
from lfl_jax.kernels import attention as kernels
from lfl_jax.kernels.attention import attention, blocked, choose, cudnn, splash
from lfl_jax.kernels.attention.reference import reference
from lfl_jax.models import llama
from lfl_jax.models.cache import empty_cache


def inputs(t, h=4, n_kv=2, p=8, b=2, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    q, k, v = (
        jax.random.normal(key, (b, t, n, p)) for key, n in zip(keys, (h, n_kv, n_kv), strict=False)
    )
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
@pytest.mark.parametrize(
    "implementation", [reference, blocked, attention], ids=lambda f: f.__name__
)
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
    ones = jnp.ones_like(v)  # with values of 1 an output is the sum of the weights that were kept
    sums = jnp.stack(
        [attention(q, k, ones, mask, dropout=0.25, key=jax.random.key(i)) for i in range(50)]
    )
    assert float(jnp.std(sums)) > 0.1
    np.testing.assert_allclose(jnp.mean(sums), 1.0, atol=0.02)
    cached = attention(q[:, -1:], k, v, mask[:, -1:])
    np.testing.assert_allclose(cached, blocked(q, k, v, mask)[:, -1:], rtol=0, atol=1e-5)


def packed(t, segments=((40, 60, 28, 72), (150, 50), (1, 199)), h=4, n_kv=2, p=8):
    """q, k, v, mask and segment ids of rows that hold several documents, the last one padding
    (segment 0)."""
    keys = jax.random.split(jax.random.key(3), 3)
    q, k, v = (
        jax.random.normal(key, (len(segments), t, n, p))
        for key, n in zip(keys, (h, n_kv, n_kv), strict=True)
    )
    rows = [np.repeat([*range(1, len(row)), 0], row) for row in segments]
    ids = jnp.asarray(np.stack(rows).astype(np.int32))
    assert ids.shape[1] == t
    return q, k, v, jnp.tril(jnp.ones((t, t), bool)) & (ids[:, :, None] == ids[:, None, :]), ids


def both(f, q, k, v, *rest):
    """Values and gradients for a random cotangent."""
    cotangent = jax.random.normal(jax.random.key(9), q.shape)
    out, pull = jax.vjp(lambda *x: f(*x, *rest), q, k, v)
    return out, *pull(cotangent)


KERNELS = {
    "cudnn": functools.partial(cudnn, implementation="xla"),  # the same call without the library
    "splash": functools.partial(splash, interpret=True),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_kernels_are_exact_for_packed_rows_forward_and_backward(kernel):
    *qkv, mask, ids = packed(200)  # two blocks of 128, the second one filled up
    for got, wanted in zip(both(kernel, *qkv, ids), both(reference, *qkv, mask), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_kernels_let_nothing_through_from_another_document_or_from_later(kernel):
    q, k, v, mask, ids = packed(200)
    seen = jnp.any(mask[:, 120:130], axis=1)[..., None, None]  # by tokens 120 to 129
    poisoned = kernel(q, jnp.where(seen, k, 1e4), jnp.where(seen, v, 1e4), ids)
    np.testing.assert_allclose(
        poisoned[:, 120:130], kernel(q, k, v, ids)[:, 120:130], rtol=0, atol=1e-6
    )


def test_the_kernel_of_the_platform_is_chosen_and_says_why_not(caplog):
    half = lambda *shape: jnp.zeros(shape, jnp.bfloat16)  # noqa: E731
    q, ids = half(1, 4, 2, 16), jnp.zeros((1, 4), jnp.int32)
    assert [choose(name, q, q, ids) for name in ("cpu", "gpu", "tpu")] == [
        "blocked",
        "cudnn",
        "splash",
    ]
    caplog.set_level("INFO")
    refused = {
        "float32": (q.astype(jnp.float32), ids),
        "multiples of 8": (half(1, 4, 2, 12), ids),
        "up to 128, not 136": (half(1, 4, 2, 136), ids),
        "even number": (half(1, 5, 2, 16), jnp.zeros((1, 5), jnp.int32)),
        "not one of segments": (q, None),
    }
    for reason, (x, segments) in refused.items():
        assert choose("gpu", x, x, segments) == "blocked"
        assert reason in caplog.messages[-1]


def test_attention_hands_the_kernel_the_segments_and_never_a_cache(monkeypatch):
    *qkv, mask, ids = packed(200)
    seen = []
    monkeypatch.setattr(kernels, "platform", lambda rules: "tpu")
    monkeypatch.setitem(
        kernels.KERNELS, "splash", lambda q, k, v, segment_ids: seen.append(segment_ids) or q
    )
    assert attention(*qkv, mask, segment_ids=ids) is qkv[0]
    assert seen[0] is ids
    attention(*qkv, mask)  # branches: the mask says more than segments do
    attention(qkv[0][:, -1:], *qkv[1:], mask[:, -1:])
    attention(*qkv, mask, segment_ids=ids, dropout=0.5, key=jax.random.key(0))
    assert len(seen) == 1


def test_a_named_implementation_takes_the_place_of_the_platforms(monkeypatch):
    *qkv, mask, ids = packed(200)
    kernel = lambda q, k, v, segment_ids: q  # noqa: E731
    monkeypatch.setitem(kernels.KERNELS, "splash", kernel)
    other = qkv[0] + 1
    monkeypatch.setitem(kernels.FORMS, "reference", lambda q, k, v, mask: other)
    assert attention(*qkv, mask, segment_ids=ids, implementation="splash") is qkv[0]
    assert attention(*qkv, mask, segment_ids=ids, implementation="reference") is other


def test_the_platform_is_that_of_the_mesh_or_the_default_device():
    assert platform(make_rules()) == platform(None) == "cpu"
    with jax.default_device(jax.devices("cpu")[0]):
        assert platform(None) == "cpu"
    with jax.default_device("tpu"):
        assert platform(None) == "tpu"
        assert platform(make_rules(devices=jax.devices("cpu")[:1])) == "cpu"


def test_the_model_gives_kernels_the_segments_unless_branches_or_a_cache_say_more(
    monkeypatch, small, small_params
):
    seen = []

    def spy(q, k, v, mask, *, segment_ids=None, dropout=0.0, key=None, rules=None):
        seen.append(segment_ids is not None)
        return attention(q, k, v, mask, segment_ids=segment_ids)

    monkeypatch.setattr(llama, "attention", spy)
    tokens = jnp.ones((1, 8), jnp.int32)
    cfg = dataclasses.replace(small, n_layers=1)
    params = jax.tree.map(
        lambda x: x[:1] if x.ndim > 1 and x.shape[0] == small.n_layers else x, small_params
    )
    llama.forward(params, None, tokens, cfg)
    llama.forward(params, None, tokens, cfg, branch_ids=tokens)
    unstacked = params | {"layers": unstack(params["layers"], 1)}
    llama.forward(unstacked, None, tokens, cfg, cache=empty_cache(unstacked, cfg, 1, 8))
    assert seen == [True, False, False]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_splash_compiles_for_a_tpu():
    script = Path(__file__).with_name("compile_splash.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("compiled") == 2
