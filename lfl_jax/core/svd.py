"""Singular values and vectors of matrices in host memory, in float64, whatever they come in.

A matrix of low rank is decomposed through its factors and never formed. Half-precision inputs are
upcast first: LAPACK has no half precision, and a library that rounds to one returns wrong values
without a word. Letters: I by O, R rank of the factors, K singular values.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError


class SVD(NamedTuple):
    """The matrix u diag(s) vt, singular values from the largest on."""

    u: Float[np.ndarray, "I K"]
    s: Float[np.ndarray, " K"]
    vt: Float[np.ndarray, "K O"]


def svd_of_product(a: Float[np.ndarray, "I R"], b: Float[np.ndarray, "R O"]) -> SVD:
    """Of a b; K is at most R.

    a b = Qa (Ra Rb^T) Qb^T: what is decomposed is of size R.
    """
    (qa, ra), (qb, rb) = np.linalg.qr(upcast(a)), np.linalg.qr(upcast(b).T)
    u, s, vt = np.linalg.svd(ra @ rb.T, full_matrices=False)
    return SVD(qa @ u, s, vt @ qb.T)


def values_of_product(
    a: Float[np.ndarray, "I R"], b: Float[np.ndarray, "R O"]
) -> Float[np.ndarray, " K"]:
    """The singular values of a b alone: Qa and Qb, most of the work, are not computed."""
    ra, rb = np.linalg.qr(upcast(a), mode="r"), np.linalg.qr(upcast(b).T, mode="r")
    return np.linalg.svd(ra @ rb.T, compute_uv=False)


def svd_of_matrix(matrix: Float[np.ndarray, "I O"]) -> SVD:
    """Of a matrix; K is min(I, O)."""
    return SVD(*np.linalg.svd(upcast(matrix), full_matrices=False))


def values_of_matrix(matrix: Float[np.ndarray, "I O"]) -> Float[np.ndarray, " K"]:
    """The singular values of a matrix alone."""
    return np.linalg.svd(upcast(matrix), compute_uv=False)


def values_by_gram(matrix: Float[np.ndarray, "I O"]) -> Float[np.ndarray, " K"]:
    """The singular values of a large matrix, as roots of the eigenvalues of its Gram matrix.

    Faster than `values_of_matrix` for large ones: what is reduced is symmetric and of the smaller
    size. Squaring costs digits: a value s is known to about `gram_floor`^2 / s, and below
    `gram_floor` it is returned as 0.
    """
    # Imported where it is used: scipy takes as long to import as most analyses run.
    from scipy.linalg import eigh

    # the smaller side's Gram matrix; numpy computes half of x x^T and copies it
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = np.zeros((x.shape[0], x.shape[0]))
    for start in range(0, x.shape[1], BLOCK):
        block = upcast(x[:, start : start + BLOCK])
        gram += block @ block.T

    squares = eigh(gram, eigvals_only=True, overwrite_a=True, check_finite=False)[::-1]
    s = np.sqrt(np.maximum(squares, 0.0))
    return np.where(s > gram_floor(s), s, 0.0)


# Columns that are upcast at a time, so that a large matrix is not in memory twice.
BLOCK = 4096


def gram_floor(s: Float[np.ndarray, " K"]) -> float:
    """What rounding leaves of a singular value 0 in `values_by_gram`, relative to the largest.

    Eigenvalues of a K by K matrix are off by at most about K eps times the largest one.
    """
    return float(s[0] * np.sqrt(len(s) * np.finfo(np.float64).eps)) if len(s) else 0.0


def upcast(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """float64 of any float; UserError for values that are not finite, on which LAPACK may hang."""
    wide = np.asarray(x, np.float64)
    if not np.isfinite(wide).all():
        raise UserError("a matrix with values that are not finite has no singular values")
    return wide
