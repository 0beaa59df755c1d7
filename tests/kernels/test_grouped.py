"""Rows grouped by adapter against each row with its own adapter, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax.kernels.low_rank import grouped

IDS = {
    "mixed": [3, -1, 0, 3, 1, -1, 0, 3, 1, 1, 0],
    "base only": [-1] * 11,
    "one only": [2] * 11,
    "sorted": [-1, -1, 0, 0, 0, 1, 2, 2, 3, 3, 3],
    "several tiles": [1] * 40 + [-1] * 3 + [3] * 33 + [0] * 64 + [1] * 2,
}


FORMS = {
    "routed": grouped.routed,
    **{name: functools.partial(grouped.grouped_low_rank, implementation=name) for name in grouped.FORMS},
}


def inputs(ids, i=12, o=7, r=3, m=4):
    keys = jax.random.split(jax.random.key(len(ids)), 4)
    x = jax.random.normal(keys[0], (len(ids), i))
    a, b = jax.random.normal(keys[1], (m, i, r)), jax.random.normal(keys[2], (m, r, o))
    scale = jnp.linspace(0.5, 2.0, m * r).reshape(m, r)
    return x, a, b, jnp.array(ids), scale, jax.random.normal(keys[3], (len(ids), o))


def one_by_one(x, a, b, ids, scale):
    """Every row with its own copy of its adapter's factors."""
    hidden = jnp.einsum("ni,nir->nr", x, a[ids]) * scale[ids]
    return jnp.einsum("nr,nro->no", hidden, b[ids]) * (ids >= 0)[:, None]


@pytest.mark.parametrize("implementation", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_every_row_meets_its_own_adapter(implementation, ids):
    x, a, b, ids, scale, cotangent = inputs(ids)
    found, wanted = (
        jax.value_and_grad(lambda x, a, b, s, f=f: jnp.sum(f(x, a, b, ids, s) * cotangent), argnums=(0, 1, 2, 3))(
            x, a, b, scale
        )
        for f in (implementation, one_by_one)
    )
    np.testing.assert_allclose(implementation(x, a, b, ids, scale), one_by_one(x, a, b, ids, scale), atol=1e-5)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", FORMS.values(), ids=FORMS.keys())
def test_rows_of_the_base_get_exactly_nothing(implementation):
    x, a, b, ids, scale, _ = inputs(IDS["mixed"])
    dy, dx = jax.value_and_grad(lambda x: jnp.sum(implementation(x, a, b, ids, scale) ** 2))(x)
    assert float(jnp.abs(implementation(x, a, b, ids, scale)[ids < 0]).max()) == 0.0
    assert float(jnp.abs(dx[ids < 0]).max()) == 0.0 and float(jnp.abs(dx[ids >= 0]).min()) > 0.0
    assert jnp.isfinite(dy)


@pytest.mark.parametrize("implementation", FORMS.values(), ids=FORMS.keys())
def test_compiled_and_in_bfloat16(implementation):
    x, a, b, ids, scale, _ = inputs(IDS["mixed"])
    got = jax.jit(implementation)(x.astype(jnp.bfloat16), a, b, ids, scale)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), one_by_one(x, a, b, ids, scale), rtol=0.05, atol=0.2)


def test_the_work_does_not_grow_with_the_number_of_adapters():
    """FLOPs of the compiled program: eight times the members cost the routed form eight times as much."""

    def flops(form, members):
        x, a, b, _, scale, _ = inputs([0] * 1024, i=64, o=64, r=8, m=members)
        ids = jnp.arange(1024) % members
        return jax.jit(FORMS[form]).lower(x, a, b, ids, scale).compile().cost_analysis()["flops"]

    assert flops("routed", 32) > 7 * flops("routed", 4)
    assert flops("tiled", 32) < 2 * flops("tiled", 4)
