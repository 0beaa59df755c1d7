"""The density of the singular values that a random projection leaves out, by stochastic Lanczos.

A Lanczos run on A A^T from a random vector is a Gauss quadrature of its eigenvalues' density
(Ubaru, Chen and Saad 2017). A few such runs give the values of a matrix of thousands to about a
percent, for a hundred products with it. With the projection's basis Q the run stays in its
complement, so that it sees only what Q leaves out.

Letters: N rows, O columns, K columns of Q, S samples (one run each), T steps of a run.
"""

import numpy as np
from jaxtyping import Float

SAMPLES, STEPS = 8, 48
NO_WEIGHT = 1e-15


def samples(
    matrix: Float[np.ndarray, "N O"],
    basis: Float[np.ndarray, "N K"],
    rng: np.random.Generator,
    n_samples: int = SAMPLES,
) -> Float[np.ndarray, "S M"]:
    """The M = N - K singular values of (I - Q Q^T) A, from the largest on: an estimate a run."""
    left_out = matrix.shape[0] - basis.shape[1]
    steps = min(STEPS, left_out)
    if not left_out:
        return np.zeros((n_samples, 0))
    diagonal, off_diagonal = _lanczos(matrix, basis, steps, rng, n_samples)
    rows = zip(diagonal, off_diagonal, strict=True)
    return np.stack([_quantiles(*row, left_out) for row in rows])


def _lanczos(
    matrix: Float[np.ndarray, "N O"],
    basis: Float[np.ndarray, "N K"],
    steps: int,
    rng: np.random.Generator,
    n_samples: int,
) -> tuple[Float[np.ndarray, "S T"], Float[np.ndarray, "S T"]]:
    """The tridiagonal matrices of all runs: their diagonals, and what stands beside those."""
    start = _outside(basis, rng.standard_normal((matrix.shape[0], n_samples)))
    vectors = [start / np.linalg.norm(start, axis=0)]
    diagonal, off_diagonal = np.zeros((2, steps, n_samples))
    for step in range(steps):
        image = _outside(basis, matrix @ (matrix.T @ vectors[-1]))
        diagonal[step] = np.sum(vectors[-1] * image, axis=0)

        # against all earlier vectors, twice: a run that lost orthogonality finds values again
        for _ in range(2):
            for vector in vectors:
                image -= vector * np.sum(vector * image, axis=0)
        norms = np.linalg.norm(image, axis=0)

        # a run whose space is exhausted goes on with zeros, which have no weight
        exhausted = norms <= 1e-12 * np.abs(diagonal).max()
        off_diagonal[step] = np.where(exhausted, 0.0, norms)
        vectors.append(np.where(exhausted, 0.0, image / np.where(exhausted, 1.0, norms)))
    return diagonal.T, off_diagonal.T


def _outside(basis: Float[np.ndarray, "N K"], x: Float[np.ndarray, "N S"]) -> np.ndarray:
    return x - basis @ (basis.T @ x)


def _quantiles(
    diagonal: Float[np.ndarray, " T"], off_diagonal: Float[np.ndarray, " T"], count: int
) -> Float[np.ndarray, " M"]:
    """`count` values that are spread as the quadrature's nodes are, from the largest on."""
    # Imported where it is used: scipy takes as long to import as most analyses run.
    from scipy.linalg import eigh_tridiagonal

    squares, vectors = eigh_tridiagonal(diagonal, off_diagonal[:-1])
    nodes, weights = np.sqrt(np.maximum(squares, 0.0))[::-1], np.square(vectors[0, ::-1])
    # nodes that rounding made, such as those of Q itself, have no weight and are no part of this
    nodes, weights = nodes[weights > NO_WEIGHT], weights[weights > NO_WEIGHT]
    # the centre of a node's weight is where its value is; between centres, in between
    centres = np.cumsum(weights) - weights / 2
    return np.interp((np.arange(count) + 0.5) / count, centres, nodes)
