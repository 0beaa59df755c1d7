"""Weight changes with known singular values."""

import numpy as np

from lfl_jax.analysis.weight_changes import WeightChange


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0]


def matrix(shape, s, seed=0):
    """A dense matrix with these singular values, and zeros beyond them."""
    rng = np.random.default_rng(seed)
    s = np.asarray(s, np.float64)
    return (orthonormal(rng, shape[0], len(s)) * s) @ orthonormal(rng, shape[1], len(s)).T


def change(dw, base=None, stored_as="float32", factors=None):
    """A weight change of this dW; base: ones where none is given."""
    base = np.ones(dw.shape, np.float32) if base is None else base
    return WeightChange(
        path="layers/attn/q",
        layer=1,
        shape=dw.shape,
        factors=factors,
        read_change=lambda: np.asarray(dw),
        read_base=lambda: np.asarray(base),
        stored_as=stored_as,
    )
