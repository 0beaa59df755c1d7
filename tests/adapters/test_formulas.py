"""Each kind against a plain numpy restatement of its paper's formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax.adapters import DoRA, LoRA, project
from lfl_jax.adapters.placement import placements
from lfl_jax.adapters.site import AdapterContext, Site
from lfl_jax.config import AdapterConfig
from lfl_jax.errors import UserError

RNG = np.random.default_rng(0)
W, A, B = (RNG.normal(size=s).astype(np.float32) for s in ((12, 10), (12, 3), (3, 10)))
X = RNG.normal(size=(2, 5, 12)).astype(np.float32)
SCALE = np.full(3, 2.0, np.float32)


def dora(m=None):
    layer = DoRA(
        jnp.array(A), jnp.array(B), jnp.array(SCALE), jnp.ones(10), jnp.ones(1), jnp.ones(10)
    ).bind(jnp.array(W))
    return layer if m is None else layer.replace(m=jnp.array(m))


def test_lora_is_w_plus_scaled_ab():
    (y,) = project(
        jnp.array(X), (Site(jnp.array(W), LoRA(jnp.array(A), jnp.array(B), jnp.array(SCALE))),)
    )
    np.testing.assert_allclose(y, X @ (W + 2.0 * A @ B), rtol=1e-4, atol=1e-4)


def test_dora_normalises_each_output_unit():
    m = RNG.uniform(0.5, 2, 10).astype(np.float32)
    v = W + 2.0 * A @ B
    wanted = m * v / np.linalg.norm(v, axis=0)
    (y,) = project(jnp.array(X), (Site(jnp.array(W), dora(m)),))
    np.testing.assert_allclose(y, X @ wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dora(m).delta(jnp.array(W)), wanted - W, rtol=1e-3, atol=1e-4)


def test_dora_treats_the_norm_as_constant():
    m, v = RNG.uniform(0.5, 2, 10).astype(np.float32), W + 2.0 * A @ B
    g = RNG.normal(size=(2, 5, 10)).astype(np.float32)

    def loss(layer):
        return jnp.sum(project(jnp.array(X), (Site(jnp.array(W), layer),))[0] * g)

    grads, n = jax.grad(loss)(dora(m)), np.linalg.norm(v, axis=0)
    x, g = X.reshape(-1, 12), g.reshape(-1, 10)
    np.testing.assert_allclose(grads.b, 2.0 * A.T @ x.T @ (g * m / n), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(grads.m, np.sum((x @ v) * g, axis=0) / n, rtol=1e-3, atol=1e-3)


def test_dropout_acts_on_the_adapters_input_only_and_keeps_its_mean():
    layer = LoRA(jnp.array(A), jnp.array(B), jnp.array(SCALE))
    x, w = jnp.array(X), jnp.array(W)
    context = [AdapterContext(key=jax.random.key(i), dropout=0.5) for i in range(400)]
    draws = [project(x, (Site(w, layer),), c)[0] for c in context]
    assert not jnp.array_equal(draws[0], draws[1])
    np.testing.assert_allclose(np.mean(draws, axis=0) - X @ W, X @ (2.0 * A @ B), atol=6.0)
    nothing = project(x, (Site(w, layer.replace(b=0 * layer.b)),), context[0])[0]
    np.testing.assert_array_equal(nothing, x @ w)


def test_targets_ranks_and_alphas_by_pattern():
    paths = ("layers/attn/q", "layers/mlp/up")
    config = AdapterConfig(
        rank=8,
        targets=("q", "layers/1/mlp/.*"),
        rank_pattern=((r".*/0/.*", 2),),
        alpha_pattern=((r".*/q", 6.0),),
    )
    found = placements(paths, 2, config)
    assert found["layers/attn/q"].ranks == (2, 8) and found["layers/attn/q"].alphas == (6.0, 6.0)
    assert found["layers/mlp/up"].ranks == (0, 8) and found["layers/mlp/up"].alphas == (0.0, 16.0)
    np.testing.assert_array_equal(found["layers/attn/q"].scale()[0], [3, 3, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("query",)}, "'query' matches no weight"),
        ({"targets": ("q[",)}, "not a regular expression"),
        ({"rank_pattern": (("layers/9/.*", 4),)}, "matches no weight"),
    ],
)
def test_unknown_targets_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        placements(("layers/attn/q",), 2, AdapterConfig(rank=8, **({"targets": ("q",)} | options)))
