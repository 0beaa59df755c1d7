"""matmul's own backward pass against autodiff, and weights by output units against x W."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax.core.transposed import Transposed
from lfl_jax.kernels.linear import linear, linear_transposed
from lfl_jax.kernels.linear.output_rows import FEW, times_output_rows
from lfl_jax.kernels.linear.reference import matmul


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (2, 5, 3, 7)])
def test_gradients_are_autodiffs(shape):
    b, t, i, o = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x, w, ct = (
        jax.random.normal(k, s) for k, s in zip(keys, ((b, t, i), (i, o), (b, t, o)), strict=True)
    )
    got = jax.grad(lambda x, w: jnp.sum(matmul(x, w) * ct), argnums=(0, 1))(x, w)
    wanted = jax.grad(lambda x, w: jnp.sum((x @ w) * ct), argnums=(0, 1))(x, w)
    np.testing.assert_array_equal(matmul(x, w), x @ w)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, FEW, FEW + 1])
def test_a_transposed_weight_multiplies_as_its_array_does(tokens):
    keys = jax.random.split(jax.random.key(0), 3)
    x, dy = jax.random.normal(keys[0], (tokens, 1, 7)), jax.random.normal(keys[1], (tokens, 1, 5))
    w = jax.random.normal(keys[2], (7, 5))
    held = Transposed(w.T)
    assert held.shape == w.shape and held.dtype == w.dtype
    np.testing.assert_allclose(linear(x, held), x @ w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(linear_transposed(dy, held), dy @ w.T, rtol=1e-5, atol=1e-6)


def test_logits_of_bfloat16_are_float32():
    x = jax.random.normal(jax.random.key(0), (4, 8), jnp.bfloat16)
    rows = jax.random.normal(jax.random.key(1), (6, 8), jnp.bfloat16)
    for tokens in (x, jnp.tile(x, (FEW, 1))):
        y = times_output_rows(tokens, rows, jnp.float32)
        wanted = tokens.astype(jnp.float32) @ rows.astype(jnp.float32).T
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [FEW, FEW + 1])
def test_the_weights_of_few_tokens_are_the_left_operand_of_the_compiled_product(tokens):
    """XLA swaps the operands of a product whose result is transposed, unless it is kept from it."""
    x, rows = jnp.ones((tokens, 64)), jnp.ones((96, 64))
    program = jax.jit(times_output_rows).lower(x, rows).compile().as_text()
    sizes = re.search(r"= f32\[(\d+),(\d+)\]\S* dot\(", program).groups()
    expected = (96, tokens) if tokens <= FEW else (tokens, 96)
    assert tuple(map(int, sizes)) == expected
