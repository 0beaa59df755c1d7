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
    "as many tiles as can be": [0] * 9 + [1] * 9 + [2] * 9 + [3],
}


FORMS = {
    "routed": grouped.one_hot_reference,
    **{
        name: functools.partial(grouped.grouped_low_rank, implementation=name)
        for name in grouped.FORMS
    },
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
        jax.value_and_grad(
            lambda x, a, b, s, f=f: jnp.sum(f(x, a, b, ids, s) * cotangent), argnums=(0, 1, 2, 3)
        )(x, a, b, scale)
        for f in (implementation, one_by_one)
    )
    np.testing.assert_allclose(
        implementation(x, a, b, ids, scale), one_by_one(x, a, b, ids, scale), atol=1e-5
    )
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
    np.testing.assert_allclose(
        got.astype(jnp.float32), one_by_one(x, a, b, ids, scale), rtol=0.05, atol=0.2
    )


def test_examples_that_are_one_adapters_need_no_sorting():
    _, a, b, _, scale, _ = inputs([0])
    x, cotangent = (
        jax.random.normal(jax.random.key(1), (5, 6, 12)),
        jax.random.normal(jax.random.key(2), (5, 6, 7)),
    )
    ids = jnp.array([3, -1, 0, 3, 1])

    def rows(x, a, b, scale):
        return one_by_one(x.reshape(30, 12), a, b, jnp.repeat(ids, 6), scale).reshape(5, 6, 7)

    found, wanted = (
        jax.value_and_grad(lambda *args, f=f: jnp.sum(f(*args) * cotangent), argnums=(0, 1, 2, 3))(
            x, a, b, scale
        )
        for f in (lambda x, a, b, scale: grouped.low_rank_by_example(x, a, b, ids, scale), rows)
    )
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    half = grouped.low_rank_by_example(x.astype(jnp.bfloat16), a, b, ids, scale)
    assert half.dtype == jnp.bfloat16 and not half[1].any()


@pytest.mark.parametrize(
    ("n", "members", "rows"),
    [(32, 32, 1), (32, 64, 1), (1, 1, 1), (64, 32, 2), (256, 32, 8), (8192, 64, 32)],
)
def test_tiles_hold_what_an_adapter_has_on_average(n, members, rows):
    assert grouped.tile(n, members) == rows


def test_tiles_do_not_multiply_the_rows():
    for members in range(1, 70):
        for n in range(1, 300):
            rows = grouped.tile(n, members)
            slots = (n + min(members, n) * (rows - 1)) // rows * rows
            assert n <= slots + rows - 1 and slots < 2.5 * n and rows & (rows - 1) == 0


def test_the_work_does_not_grow_with_the_number_of_adapters():
    """FLOPs of the compiled program: eight times the members cost the routed form eight times as
    much."""

    def flops(form, members):
        x, a, b, _, scale, _ = inputs([0] * 1024, i=64, o=64, r=8, m=members)
        ids = jnp.arange(1024) % members
        return jax.jit(FORMS[form]).lower(x, a, b, ids, scale).compile().cost_analysis()["flops"]

    assert flops("routed", 32) > 7 * flops("routed", 4)
    assert flops("tiled", 32) < 2 * flops("tiled", 4)
