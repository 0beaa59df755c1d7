"""matmul's own backward pass against autodiff, on both sides of its choice of order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
