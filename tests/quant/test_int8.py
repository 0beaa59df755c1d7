"""Int8 against its restatement in numpy, and products with it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.nn import initializers
from quant import reference

from lfl_jax import quant
from lfl_jax.core import spec, tree
from lfl_jax.core.spec import ArraySpec
from lfl_jax.quant import int8


def gaussian(*shape, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 12),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e20]),
    st.booleans(),
)
def test_codes_and_values_are_the_restatement_s(rows, columns, size, half):
    w = (gaussian(rows, columns, seed=rows * 13 + columns) * size).astype(
        jnp.bfloat16 if half else jnp.float32
    )
    q = int8.quantise(w)
    codes, scale, rounded = reference.int8(np.asarray(w, np.float32))
    clear = np.abs(np.abs(rounded % 1) - 0.5) > 1e-4
    np.testing.assert_array_equal(np.asarray(q.codes)[clear], codes[clear])
    np.testing.assert_allclose(q.scale, scale, rtol=1e-6)
    np.testing.assert_allclose(
        int8.dequantise(q, jnp.float32), np.asarray(q.codes) * scale, rtol=1e-6
    )
    assert int8.dequantise(q).dtype == w.dtype and q.shape == w.shape
    assert quant.nbytes(q) == rows * columns + 4 * columns


def test_whole_numbers_times_powers_of_two_come_back_exactly():
    index = np.random.default_rng(0).integers(-127, 128, (50, 7))
    index[3] = [127, -127] * 3 + [127]
    w = jnp.asarray(index * 2.0**-9, jnp.float32)
    q = int8.quantise(w)
    np.testing.assert_array_equal(q.codes, index)
    np.testing.assert_array_equal(int8.dequantise(q), w)
    np.testing.assert_array_equal(int8.dequantise(int8.quantise(jnp.zeros((5, 3)))), 0)


def test_the_error_of_gaussian_weights_is_the_theory_s():
    """A step of absmax / 127 errs by step / sqrt(12). Measured over 1024 inputs: 0.0078."""
    w = gaussian(1024, 512)
    step = float(jnp.sqrt(jnp.mean(jnp.max(jnp.abs(w), axis=0) ** 2))) / 127
    np.testing.assert_allclose(quant.error(w, int8.quantise(w)), step / math.sqrt(12), rtol=0.01)


def test_a_stack_is_its_layers_and_specs_describe_it():
    w = gaussian(3, 50, 10) * jnp.array([1.0, 30.0, 0.1])[:, None, None]
    q = int8.quantise(w)
    for i, one in enumerate(tree.unstack(q, 3)):
        jax.tree.map(np.testing.assert_array_equal, one, int8.quantise(w[i]))
        np.testing.assert_array_equal(int8.dequantise(q)[i], int8.dequantise(one))
    specs = int8.specs(ArraySpec(w.shape, ("layers", "embed", "mlp"), initializers.zeros))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), q) == jax.tree.map(
        lambda s: (s.shape, jnp.dtype(s.dtype)), specs, is_leaf=spec.is_spec
    )
    assert specs.codes.axes == ("layers", "embed", "mlp") and specs.scale.axes == ("layers", "mlp")
    np.testing.assert_array_equal(
        int8.dequantise(spec.init(specs, jax.random.key(0))), jnp.zeros(w.shape)
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_and_their_gradients_are_the_dense_weight_s(dtype):
    q = int8.quantise(gaussian(50, 24), dtype=dtype)
    x = gaussian(2, 5, 50, seed=1, dtype=dtype)
    w = quant.dense(q)
    y, pull = jax.vjp(lambda x: quant.matmul(x, q), x)
    wanted, pull_dense = jax.vjp(lambda x: x @ w, x)
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    for got, dense in ((y, wanted), (pull(y)[0], pull_dense(y)[0])):
        assert got.dtype == dtype
        np.testing.assert_allclose(
            got.astype(jnp.float32),
            dense.astype(jnp.float32),
            rtol=tolerance,
            atol=tolerance * float(jnp.abs(dense).max()),
        )
    none = jax.grad(lambda q: jnp.sum(quant.matmul(x, q).astype(jnp.float32)), allow_int=True)(q)
    assert none.codes.dtype == jax.dtypes.float0
    np.testing.assert_array_equal(none.scale, 0)
