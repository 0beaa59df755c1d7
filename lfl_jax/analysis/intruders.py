"""Intruder dimensions (Shuttleworth et al., arXiv 2410.21228): large directions of W + dW that W
does not have.

Of the first k left singular vectors u_j of W + dW, those with max_i |cos(u_j, u0_i)| < epsilon over
all left singular vectors u0_i of W are intruders. The paper's weights are (outputs, inputs), as
torch has them, so that their left vectors are in the space of outputs: the right ones of a weight
(I, O), y = x W.

In two things this is stricter, since a count must not depend on the basis that an SVD happens to
return: vectors of equal singular values are compared as a subspace, and vectors whose singular
value is zero are no directions of W.

Letters: I inputs, O outputs, N directions of W, G of them with one singular value, M likewise of
W + dW, K the first directions of W + dW.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import linalg, stats

from lfl_jax.analysis.weight_changes import WeightChange
from lfl_jax.errors import UserError

# The paper's.
TOP_K, EPSILON = 10, 0.5
# Of the largest singular value: closer ones are equal, and smaller ones zero. Rounding W to float32
# moves singular values by less than 1e-7 of the largest.
TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Directions:
    """The largest singular triples s v u^T of W + dW, and how much of each u is in W.

    u: in the space of outputs. cosines: max_i |cos(u, u0_i)|, raw; equal s share a subspace, in
    which the direction that W has most of comes first. floor: that of a random u, the median.
    """

    u: Float[np.ndarray, "O K"]
    s: Float[np.ndarray, " K"]
    v: Float[np.ndarray, "I K"]
    cosines: Float[np.ndarray, " K"]
    floor: float

    def is_intruder(self, epsilon: float = EPSILON) -> Bool[np.ndarray, " K"]:
        """Which of the directions are not W's."""
        return self.cosines < epsilon


def of_change(change: WeightChange, top_k: int = TOP_K) -> Directions:
    """`directions` of one weight of one layer."""
    # A zero change needs one decomposition, and has no intruders: W + dW is W.
    return directions(change.base(), None if change.is_zero() else change.dense(), top_k)


def directions(
    w: Float[np.ndarray, "I O"], dw: Float[np.ndarray, "I O"] | None, top_k: int = TOP_K
) -> Directions:
    """The first `top_k` directions of W + dW, or as many as it has; dw: None is no change.

    UserError for top_k below 1.
    """
    if top_k < 1:
        raise UserError(f"intruders: top_k={top_k}; expected a whole number >= 1")
    base = _Decomposed.of(np.asarray(w, np.float64))
    floor = cosine_floor(len(base.s), w.shape[1])
    if dw is None:
        cosines = np.ones(len(base.s))[:top_k]
        return Directions(base.u[:, :top_k], base.s[:top_k], base.v[:, :top_k], cosines, floor)
    tuned = _Decomposed.of(np.asarray(w, np.float64) + dw)
    cosines, basis = _aligned_basis(base, tuned, top_k)
    return Directions(tuned.u @ basis, tuned.s[:top_k], tuned.v @ basis, cosines, floor)


def counts(
    cosines: Float[np.ndarray, " K"], epsilons: Sequence[float], top_ks: Sequence[int]
) -> Int[np.ndarray, "E C"]:
    """How many of the first k directions are intruders, for every epsilon and every k."""
    below = cosines < np.asarray(epsilons)[:, None]
    return np.stack([below[:, :k].sum(axis=1) for k in top_ks], axis=1)


def cosine_floor(vectors: int, size: int) -> float:
    """The median of max_i |cos(u, u_i)| of a random u (size,) and so many orthonormal u_i.

    About sqrt(2 ln(vectors) / size); here from the distribution of one cosine, whose square is
    Beta(1/2, (size - 1) / 2). Cosines count as independent: 2 % too small at 64, less above.
    """
    if vectors < 1 or size < 2:
        return float(vectors > 0)
    return float(np.sqrt(stats.beta.ppf(0.5 ** (1 / vectors), 0.5, (size - 1) / 2)))


@dataclass(frozen=True, eq=False)
class _Decomposed:
    """The singular triples s v u^T of a weight, by falling s, without those that are zero."""

    u: Float[np.ndarray, "O N"]
    s: Float[np.ndarray, " N"]
    v: Float[np.ndarray, "I N"]

    @classmethod
    def of(cls, w: Float[np.ndarray, "I O"]) -> "_Decomposed":
        """By the eigenvectors of the smaller of W W^T and W^T W, several times faster than an SVD.

        Singular values below 1e-8 of the largest are lost in float64, which is below TOLERANCE.
        """
        is_wide = w.shape[0] < w.shape[1]
        values, vectors = linalg.eigh(w @ w.T if is_wide else w.T @ w, overwrite_a=True)
        s = np.sqrt(np.maximum(values[::-1], 0.0))
        nonzero = s > TOLERANCE * s[0]
        s, vectors = s[nonzero], vectors[:, ::-1][:, nonzero]
        others = (w.T if is_wide else w) @ vectors / s
        return cls(others, s, vectors) if is_wide else cls(vectors, s, others)

    def groups(self) -> list[slice]:
        """The triples of equal s, which an SVD may rotate among themselves."""
        # Neighbours that are equal, so that a run of them is one group.
        apart = np.flatnonzero(-np.diff(self.s) > TOLERANCE * self.s[:1]) + 1
        ends = [0, *apart.tolist(), len(self.s)] if len(self.s) else []
        return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


def _aligned_basis(
    base: _Decomposed, tuned: _Decomposed, top_k: int
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "N K"]]:
    """(cosines, coordinates in tuned.u) of the first directions, one basis for all equal ones."""
    cosines, columns = [np.zeros(0)], [np.zeros((len(tuned.s), 0))]
    for group in tuned.groups():
        # of a subspace that reaches beyond the first k, the directions that W has most of
        wanted = min(group.stop, top_k) - group.start
        if wanted > 0:
            aligned, coordinates = _aligned(base, tuned.u[:, group], wanted)
            cosines.append(aligned)
            columns.append(np.zeros((len(tuned.s), wanted)))
            columns[-1][group] = coordinates
    return np.concatenate(cosines), np.concatenate(columns, axis=1)


def _aligned(
    base: _Decomposed, u: Float[np.ndarray, "O M"], count: int
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "M K"]]:
    """(cosines, coordinates) of the `count` directions in the span of u that the base has most of.

    The first is the direction with the largest cosine to any subspace of the base, the next the
    same among those orthogonal to it, and so on: whatever basis of the span u is, they are the
    same. A single vector is itself.
    """
    groups, overlap = base.groups(), base.u.T @ u
    rest, cosines, coordinates = np.eye(u.shape[1]), [], []
    for _ in range(count):
        cosine, direction = _closest(groups, overlap @ rest)
        cosines.append(cosine)
        coordinates.append(rest @ direction)
        rest = rest @ linalg.null_space(direction[None])
    return np.array(cosines), np.stack(coordinates, axis=1)


def _closest(
    groups: Sequence[slice], overlap: Float[np.ndarray, "N M"]
) -> tuple[float, Float[np.ndarray, " M"]]:
    """(cosine, direction) with the largest cosine to the span of any group."""
    # of a weight that is zero, nothing is close
    if not groups:
        return 0.0, np.eye(overlap.shape[1])[0]
    if overlap.shape[1] == 1:
        starts = [group.start for group in groups]
        squares = np.add.reduceat(np.square(overlap[:, 0]), starts)
        return float(np.sqrt(squares.max())), np.ones(1)

    # the principal angle between two subspaces
    _, s, vt = zip(*(linalg.svd(overlap[group]) for group in groups), strict=True)
    closest = int(np.argmax([values[0] for values in s]))
    return float(s[closest][0]), vt[closest][0]
