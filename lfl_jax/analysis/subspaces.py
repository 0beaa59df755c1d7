"""Which directions a weight change is in: compared with another run's change, and with W itself.

The LoRA paper (Hu et al., arXiv 2106.09685, §7) asks how much the changes of two ranks or seeds
share, and which directions of W a change amplifies. DoRA's (Liu et al., arXiv 2402.09353, §3.2)
asks whether weights change in magnitude or in direction. Every answer comes with what random
directions would give, without which none can be read: two large subspaces always share something.

Directions of equal singular values may be rotated among themselves: cut a subspace between values
that differ.

Letters: I inputs, O outputs, N the size of a space, R directions of a subspace, U units (outputs),
P points (layers, or layers and steps).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.analysis import decompose
from lfl_jax.analysis.weight_changes import WeightChange
from lfl_jax.core.svd import SVD, svd_of_matrix
from lfl_jax.errors import UserError

# Of the largest singular value: what is smaller is what rounding made of zero.
ROUNDING = 1e-6
# A correlation over fewer points says nothing: of two it is always 1 or -1.
FEWEST_POINTS = 3


@dataclass(frozen=True)
class Null:
    """Mean and standard deviation over random subspaces of the same sizes."""

    mean: float
    sd: float


def similarity(u: Float[np.ndarray, "N R"], v: Float[np.ndarray, "N Q"]) -> float:
    """||U^T V||_F^2 / min(R, Q) of two subspaces with orthonormal columns.

    1: one lies within the other. 0: they are orthogonal.
    """
    return float(np.sum(np.square(u.T @ v)) / min(u.shape[1], v.shape[1]))


def similarities(
    u: Float[np.ndarray, "N R"], v: Float[np.ndarray, "N Q"]
) -> Float[np.ndarray, "R Q"]:
    """`similarity` of the first i columns of u with the first j of v, at [i - 1, j - 1]."""
    # Every pair (i, j) is a corner of one table of squares, summed from its start.
    squares = np.square(u.T @ v).cumsum(axis=0).cumsum(axis=1)
    i, j = np.arange(1, u.shape[1] + 1), np.arange(1, v.shape[1] + 1)
    return squares / np.minimum.outer(i, j)


def random_similarity(size: int, i: int, j: int) -> Null:
    """`similarity` of random subspaces of i and j directions, exactly.

    ||U^T V||_F^2 has mean i j / N and variance 2 i j (N - i)(N - j) / (N^2 (N - 1)(N + 2)), from
    the moments of a random projection.
    """
    smaller = min(i, j)
    variance = 2 * i * j * (size - i) * (size - j) / (size**2 * max(size - 1, 1) * (size + 2))
    return Null(i * j / size / smaller, float(np.sqrt(variance)) / smaller)


@dataclass(frozen=True)
class Shared:
    """`similarity` of two sets of singular directions, in the spaces of inputs and of outputs.

    random_*: of random directions, as many in a space of this size.
    """

    inputs: float
    outputs: float
    random_inputs: Null
    random_outputs: Null


def of_changes(first: WeightChange, second: WeightChange, i: int, j: int) -> Shared:
    """The first i directions of one change against the first j of another of the same weight.

    Of two ranks or two seeds (2106.09685, §7.2). A change of lower rank has as many as it has.
    Raises UserError for a zero change, which has no directions, and for weights of other shapes.
    """
    if first.shape != second.shape:
        raise UserError(
            f"subspaces: {first.name} is {first.shape} in one and {second.shape} in the other"
        )
    return _shared(directions(first, i), directions(second, j))


def with_base(change: WeightChange, i: int, j: int) -> Shared:
    """The first i directions of a change against the first j of its W; UserError as above."""
    return _shared(directions(change, i), decompose.svd_of(change.base(), j))


def directions(change: WeightChange, count: int) -> SVD:
    """The first directions of a change, or as many as it has; UserError for a zero change."""
    return _nonzero(decompose.svd(change, count), change)


def directions_of_a(change: WeightChange, count: int) -> SVD | None:
    """Those of the factor A of dW = A B alone, (I, R), as the LoRA paper compares them.

    A starts from random values, of which it keeps as much as training leaves. None for a change
    that is not known by factors; UserError for a zero change.
    """
    if change.factors is None:
        return None
    if change.is_zero():
        raise UserError(_zero(change))  # with B = 0 there is an A, which changes nothing
    return _nonzero(decompose.first(svd_of_matrix(change.factors[0]), count), change)


def _nonzero(svd: SVD, change: WeightChange) -> SVD:
    # Factors with a padded or repeated rank have singular values that are rounding.
    rank = int(np.sum(svd.s > ROUNDING * svd.s[:1]))
    if not rank:
        raise UserError(_zero(change))
    return decompose.first(svd, rank)


def _zero(change: WeightChange) -> str:
    return f"subspaces: the change of {change.name} is zero: it has no directions"


def _shared(first: SVD, second: SVD) -> Shared:
    i, j = len(first.s), len(second.s)
    inputs, outputs = (first.u, second.u), (first.vt.T, second.vt.T)
    nulls = (random_similarity(len(pair[0]), i, j) for pair in (inputs, outputs))
    return Shared(similarity(*inputs), similarity(*outputs), *nulls)


@dataclass(frozen=True)
class Amplification:
    """How much a change amplifies what W has in the change's directions (2106.09685, table 7).

    change: ||dW||_F. in_own, in_top, in_random: ||U^T W V||_F with U and V the first R singular
    vectors of dW, of W itself (the most there can be), and random ones (the root of the mean
    square).
    """

    change: float
    in_own: float
    in_top: float
    in_random: float

    @property
    def factor(self) -> float:
        """||dW||_F / ||U^T W V||_F; infinite where W has nothing there, 0 of a zero change."""
        # A zero change has no directions, in which W would have anything or nothing.
        if self.change == 0:
            return 0.0
        return self.change / self.in_own if self.in_own else float("inf")

    @property
    def random_factor(self) -> float:
        """The same of a change of this size in random directions."""
        if self.change == 0:
            return 0.0
        return self.change / self.in_random if self.in_random else float("inf")


def amplification(
    w: Float[np.ndarray, "I O"],
    u: Float[np.ndarray, "I R"],
    s: Float[np.ndarray, " Q"],
    v: Float[np.ndarray, "O R"],
    singular_values: Float[np.ndarray, " N"],
) -> Amplification:
    """Of a change with the singular values s, in its first R directions u and v.

    singular_values: of W, from the largest on.
    """
    rank, (fan_in, fan_out) = u.shape[1], w.shape
    whole = float(np.linalg.norm(singular_values))
    return Amplification(
        change=float(np.linalg.norm(s)),
        in_own=float(np.linalg.norm(u.T @ np.asarray(w, np.float64) @ v)),
        in_top=float(np.linalg.norm(singular_values[:rank])),
        # a random orthonormal U keeps R / I of every column's square, V likewise of every row's
        in_random=whole * rank / float(np.sqrt(fan_in * fan_out)),
    )


def amplification_of(change: WeightChange, rank: int) -> Amplification:
    """`amplification` in the first `rank` directions of a change, or in as many as it has."""
    w, svd = change.base(), decompose.svd(change, rank)
    s, singular_values = decompose.spectrum(change).s, decompose.of_matrix(w).s
    return amplification(w, svd.u, s, svd.vt.T, singular_values)


@dataclass(frozen=True)
class UnitChange:
    """The mean over units of |m_t - m_0| and of 1 - cos; random_*: of a random change.

    m: the norm of a unit's weights. The cosine is that of its weights before and after. left_out:
    units whose weights are all zero before or after, which have no direction.
    """

    magnitude: float
    direction: float
    random_magnitude: float
    random_direction: float
    left_out: int = 0


def unit_change(
    w: Float[np.ndarray, "I O"],
    dw: Float[np.ndarray, "I O"],
    seed: int = 0,
    *,
    per_input: bool = False,
) -> UnitChange:
    """DoRA's magnitude and direction change (equations 3 and 4) of one weight.

    A unit is an output, as in the paper's code; per_input: an input. The random change is Gaussian
    with this change's norm.
    """
    noise = np.random.default_rng(seed).normal(size=w.shape)
    # Of the same norm: a larger change turns weights further, whatever its directions.
    noise *= np.linalg.norm(dw) / np.linalg.norm(noise)
    axis = 1 if per_input else 0
    base = np.asarray(w, np.float64)
    magnitude, direction, left_out = _unit_change(base, base + dw, axis)
    return UnitChange(magnitude, direction, *_unit_change(base, base + noise, axis)[:2], left_out)


def _unit_change(
    before: Float[np.ndarray, "I O"], after: Float[np.ndarray, "I O"], axis: int
) -> tuple[float, float, int]:
    m0, mt = np.linalg.norm(before, axis=axis), np.linalg.norm(after, axis=axis)
    has_direction = (m0 > 0) & (mt > 0)
    # 1 - cos as half the squared distance of the unit vectors: of a small change it would
    # otherwise be the difference of two equal numbers
    unit0, unit = _normalised(before, m0, axis), _normalised(after, mt, axis)
    apart = np.sum(np.square(unit - unit0), axis=axis)[has_direction] / 2
    direction = float(apart.mean()) if apart.size else 0.0
    return float(np.mean(np.abs(mt - m0))), direction, int((~has_direction).sum())


def _normalised(
    x: Float[np.ndarray, "I O"], norms: Float[np.ndarray, " U"], axis: int
) -> Float[np.ndarray, "I O"]:
    return x / np.expand_dims(np.where(norms > 0, norms, 1.0), axis)


@dataclass(frozen=True)
class Correlation:
    """Pearson's, over points; random: of random changes of the same norms."""

    value: float
    random: float
    points: int


def magnitude_against_direction(changes: Sequence[UnitChange]) -> Correlation:
    """DoRA's diagnosis: the correlation of magnitude and direction change over layers.

    Published of VL-BART: full finetuning -.62, DoRA -.31, LoRA +.83. Raises UserError for fewer
    than 3 changes, and where one of the two does not vary.
    """
    if len(changes) < FEWEST_POINTS:
        raise UserError(
            f"subspaces: {len(changes)} weights changed; a correlation of magnitude and direction"
            f" needs at least {FEWEST_POINTS}"
        )
    # Layers differ in the size of their change, which alone makes the two grow together.
    rows = [(c.magnitude, c.direction, c.random_magnitude, c.random_direction) for c in changes]
    magnitude, direction, *null = np.array(rows).T
    return Correlation(_pearson(magnitude, direction), _pearson(*null), len(changes))


def _pearson(x: Float[np.ndarray, " P"], y: Float[np.ndarray, " P"]) -> float:
    a, b = x - x.mean(), y - y.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    if scale == 0:
        raise UserError(
            "subspaces: all layers changed alike in magnitude or in direction, so that the two have"
            " no correlation"
        )
    return float(a @ b) / scale
