"""Singular values and vectors of a weight change, or of any matrix, and how far they are off.

From factors by QR, without forming dW. Of a dense matrix by LAPACK, by its Gram matrix where it is
larger, and by random projection (Halko, Martinsson and Tropp, arXiv 0909.4061) above that. What a
projection leaves out still counts: `analysis.tail` measures its density, and its energy is exact.

All of it is in float64 in host memory. A weight that is sharded over devices is collected first,
one at a time: the largest ones of a 70B model are 1 GB, which moves in less time than a
decomposition takes, and accelerators would decompose them in float32, whose Gram matrix loses every
singular value below 3e-4 of the largest.

Letters: I inputs, O outputs, N the smaller of them, K computed values, S samples.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lfl_jax.analysis import tail
from lfl_jax.analysis.weight_changes import WeightChange
from lfl_jax.core.svd import (
    SVD,
    gram_floor,
    svd_of_matrix,
    svd_of_product,
    upcast,
    values_by_gram,
    values_of_matrix,
    values_of_product,
)

# Smaller sides up to which a method is used. A change of 4096 by 11008 takes 11 s of CPU time by
# its Gram matrix, and as long by a projection (benchmarks/spectra.py): exact values are no dearer
# up to the weights of a 13B model.
BY_LAPACK, BY_GRAM = 512, 5120
# Of a projection: values that are computed, further columns, and passes over the matrix, which
# sharpen the projection where singular values fall slowly.
RANK, OVERSAMPLING, PASSES = 128, 16, 3
# The bound on what a projection leaves out fails with a probability of at most 10^-VECTORS.
VECTORS = 10
EPS = float(np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of a matrix, from the largest on, in float64.

    s: as many as the smaller side, or as the rank of the factors. method: a key of METHODS. error:
    a bound on the absolute error of the first `computed` of them; for "projection" it is one on the
    spectral norm of what the projection leaves out, and each is low by at most error^2 / (2 s).
    samples: (S, N - K) further spectra of the values that were not computed, of which the rest of s
    is the mean; their spread is its uncertainty. Empty where every value was computed.
    """

    s: Float[np.ndarray, " N"]
    shape: tuple[int, int]
    method: str
    error: float
    samples: Float[np.ndarray, "S M"]

    @property
    def computed(self) -> int:
        """How many of the values are singular values, and not an estimate of the others."""
        return len(self.s) - self.samples.shape[1]

    def describe(self) -> str:
        """The method and its error, in a few words."""
        return METHODS[self.method].format(error=self.error, computed=self.computed)


# method -> what it means for a reader
METHODS = {
    "factors": "from the factors, error at most {error:.1e}",
    "lapack": "exact, error at most {error:.1e}",
    "gram": "from the Gram matrix, values below {error:.1e} are 0",
    "projection": (
        "the first {computed} by random projection, which leaves out a matrix of spectral norm at"
        " most {error:.2e}; the others from its density"
    ),
    "law": "from the law of large Gaussian matrices",
}


def spectrum(change: WeightChange) -> Spectrum:
    """The singular values of dW."""
    if change.factors is None:
        return of_matrix(change.dense())
    return of_product(*change.factors)


def of_product(a: Float[np.ndarray, "I R"], b: Float[np.ndarray, "R O"]) -> Spectrum:
    """Those of a b, of which no more than R differ from 0."""
    s = values_of_product(a, b)[: min(a.shape[0], b.shape[1])]
    return _exact(s, (a.shape[0], b.shape[1]), "factors", len(s) * EPS * _largest(s))


def of_matrix(matrix: Float[np.ndarray, "I O"], seed: int = 0) -> Spectrum:
    """Those of a dense matrix; seed: of the projection, if its size needs one."""
    size = min(matrix.shape)
    if size <= BY_LAPACK:
        s = values_of_matrix(matrix)
        return _exact(s, matrix.shape, "lapack", size * EPS * _largest(s))
    if size <= BY_GRAM:
        s = values_by_gram(matrix)
        return _exact(s, matrix.shape, "gram", gram_floor(s))
    return by_projection(matrix, seed=seed)


def _exact(
    s: Float[np.ndarray, " N"], shape: tuple[int, int], method: str, error: float
) -> Spectrum:
    return Spectrum(s, tuple(shape), method, error, np.zeros((0, 0)))


def _largest(s: Float[np.ndarray, " N"]) -> float:
    return float(s[0]) if len(s) else 0.0


def by_projection(matrix: Float[np.ndarray, "I O"], rank: int = RANK, seed: int = 0) -> Spectrum:
    """The first `rank` values by random projection, the others from the density of the rest."""
    rng = np.random.default_rng(seed)
    # columns: the smaller side, on which the density is measured
    wide = upcast(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T)
    projection = project(wide, rank, rng)
    s = projection.svd.s

    samples = tail.samples(wide, projection.basis, rng)
    rest = samples.mean(axis=0)
    # The energy that is left is known exactly; only how it is spread was sampled.
    scale = projection.residual / (np.linalg.norm(rest) or 1.0)
    values = np.concatenate([s, scale * rest])
    return Spectrum(values, tuple(matrix.shape), "projection", projection.bound, scale * samples)


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """A matrix projected on the span of its largest singular vectors, as far as it was found.

    svd: of the projected matrix. basis: of the span, (I, K). residual: the Frobenius norm of what
    it leaves out. bound: on its spectral norm.
    """

    svd: SVD
    basis: Float[np.ndarray, "I K"]
    residual: float
    bound: float


def project(matrix: Float[np.ndarray, "I O"], rank: int, rng: np.random.Generator) -> Projection:
    """Algorithm 4.4 of Halko et al., and their bound 4.3 on the error from random vectors.

    By Weyl's inequality no singular value is off by more than `bound`.
    """
    matrix, columns = upcast(matrix), min(rank + OVERSAMPLING, *matrix.shape)
    basis = np.linalg.qr(matrix @ rng.standard_normal((matrix.shape[1], columns)))[0]
    for _ in range(PASSES):
        # orthonormal after each product: otherwise the small directions drown in rounding
        basis = np.linalg.qr(matrix.T @ basis)[0]
        basis = np.linalg.qr(matrix @ basis)[0]

    coefficients = basis.T @ matrix
    u, s, vt = svd_of_matrix(coefficients)
    energy = float(np.sum(matrix**2) - np.sum(coefficients**2))
    residual = np.sqrt(max(energy, 0.0))

    # The largest of a few norms, times 10 sqrt(2 / pi): too small with probability 10^-VECTORS.
    images = matrix @ rng.standard_normal((matrix.shape[1], VECTORS))
    images -= basis @ (basis.T @ images)
    bound = 10 * np.sqrt(2 / np.pi) * np.linalg.norm(images, axis=0).max()
    return Projection(SVD(basis @ u, s, vt), basis, residual, float(min(bound, residual)))


def svd(change: WeightChange, rank: int | None = None) -> SVD:
    """Singular values and vectors of dW: the first `rank`, or all, of factors as many as they have.

    The vectors of equal values are any basis of their span: compare spans, not vectors.
    """
    if change.factors is not None:
        return first(svd_of_product(*change.factors), rank)
    return svd_of(change.dense(), rank)


def svd_of(matrix: Float[np.ndarray, "I O"], rank: int | None = None, seed: int = 0) -> SVD:
    """Those of a matrix. A few of a large one come from a projection, all others are exact."""
    if rank is None or min(matrix.shape) <= max(BY_LAPACK, 4 * rank):
        return first(svd_of_matrix(matrix), rank)
    return first(project(matrix, rank, np.random.default_rng(seed)).svd, rank)


def first(decomposition: SVD, rank: int | None) -> SVD:
    """The first `rank` of its components; all for None."""
    u, s, vt = decomposition
    return SVD(u[:, :rank], s[:rank], vt[:rank])


# matrix of a change -> its singular values
MATRICES: dict[str, Callable[[WeightChange], Spectrum]] = {
    "dW": spectrum,
    "W": lambda change: of_matrix(change.base()),
    "W+dW": lambda change: of_matrix(change.base() + change.dense()),
}
