"""What a spectrum is compared with: what would be there if nothing had been learned.

A rank by itself says little. A Gaussian matrix has a k90 of half its size; one step of a sign
optimizer is a matrix of signs; a checkpoint that was rounded to bfloat16 carries rounding errors of
full rank; and a run on shuffled targets moves the weights without learning the task. Each function
returns the spectrum of one of these, at the size and the norm of the change it is set beside.

Letters: I inputs, O outputs, N the smaller of them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lfl_jax.analysis.decompose import Spectrum, of_matrix, of_product
from lfl_jax.analysis.weight_changes import WeightChange
from lfl_jax.errors import UserError

# Points of the table from which the law of large Gaussian matrices is read.
GRID = 20_001
# What a functional rank keeps of what was learned.
LEARNED = 0.95
HALF_PRECISION = ("bfloat16", "float16")


def gaussian(shape: tuple[int, int], frobenius: float = 1.0) -> Spectrum:
    """Singular values of a Gaussian matrix of this shape and Frobenius norm, without drawing one.

    They are the quantiles of the law of Marchenko and Pastur (1967), which a drawn matrix follows
    to about 1 / N: k90 is 0.51 N of a square one, and 0.71 x 4096 of one of 4096 by 11008.
    """
    small, large = sorted(shape)
    ratio = small / large
    # Squares x, scaled so that their mean is 1, between (1 -+ sqrt(ratio))^2.
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    # x = centre - half cos(t): the density's roots at both ends cancel, and the grid can be even.
    t = np.linspace(0, np.pi, GRID)
    x = np.maximum((low + high) / 2 - (high - low) / 2 * np.cos(t), np.finfo(float).tiny)
    density = np.sqrt(np.maximum((x - low) * (high - x), 0.0)) * np.sin(t) / x
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])

    squares = np.interp((np.arange(small) + 0.5) / small, below / below[-1], x)[::-1]
    s = np.sqrt(squares) * frobenius / np.sqrt(squares.sum())
    return Spectrum(s, tuple(shape), "law", 0.0, np.zeros((0, 0)))


def gaussian_factors(
    shape: tuple[int, int], rank: int, frobenius: float = 1.0, seed: int = 0
) -> Spectrum:
    """Of a product of Gaussian factors of this rank: beside a low-rank adapter's change."""
    if rank < 0:
        raise UserError(f"gaussian_factors: rank {rank}; expected at least 0")
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, shape[1]))
    return _scaled(of_product(a, b), frobenius)


def one_step(change: WeightChange) -> Spectrum:
    """Of the signs of dW, at its norm: a first step of LionW, or of Adam, that goes the same way.

    Both move every weight by the learning rate in the direction of its gradient's sign. Signs of a
    matrix of low rank are of high rank: what this has, the optimizer made.
    """
    dw = change.dense()
    return _scaled(of_matrix(np.sign(dw)), float(np.linalg.norm(dw.astype(np.float64))))


def one_step_of_rank(
    shape: tuple[int, int], rank: int, frobenius: float = 1.0, seed: int = 0
) -> Spectrum:
    """Of the signs of a random gradient of this rank, at most the number of tokens in a batch."""
    rng = np.random.default_rng(seed)
    gradient = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    return _scaled(of_matrix(np.sign(gradient)), frobenius)


def in_random_directions(
    s: Float[np.ndarray, " K"], shape: tuple[int, int], seed: int = 0
) -> Float[np.ndarray, "I O"]:
    """A matrix with these singular values in random directions: the control of the intruders."""
    rng = np.random.default_rng(seed)
    # Orthonormal columns of a Gaussian matrix have no preferred direction.
    u, v = (np.linalg.qr(rng.standard_normal((size, len(s))))[0] for size in shape)
    return (u * s) @ v.T


def rounding_floor(change: WeightChange, seed: int = 0) -> Spectrum | None:
    """Of the rounding errors in dW of a checkpoint that was stored in half precision; else None.

    Drawn: a random change of dW's size is added to W and rounded as the checkpoint was. A change
    far below a weight's last digit is mostly lost, and then the error is as large as the change.
    """
    if change.stored_as not in HALF_PRECISION:
        return None
    base, dw = change.base().astype(np.float64), change.dense().astype(np.float64)
    size = np.sqrt(np.mean(np.square(dw)))
    exact = base + size * np.random.default_rng(seed).standard_normal(change.shape)

    rounded = exact.astype(jnp.dtype(change.stored_as)).astype(np.float64)
    return of_matrix(rounded - exact)


def without_floor(spectrum: Spectrum, floor: Spectrum) -> Spectrum:
    """The spectrum with the rounding errors' part taken out: what is left is the change's own.

    Values that the errors reach by themselves become 0. The others are shrunk as is best for the
    Frobenius norm (Gavish and Donoho, arXiv 1405.7511, equation 7), errors being as large in every
    direction as the floor's largest.
    """
    small, large = sorted(spectrum.shape)
    ratio = small / large
    edge = float(floor.s[0]) if len(floor.s) else 0.0
    if edge == 0:
        return spectrum
    # In units in which the errors' largest singular value is 1 + sqrt(ratio).
    y = spectrum.s * (1 + np.sqrt(ratio)) / edge
    squares = np.square(np.square(y) - ratio - 1) - 4 * ratio
    above = y > 1 + np.sqrt(ratio)
    shrunk = np.sqrt(np.maximum(squares, 0.0)) / np.where(above, y, 1.0)

    s = np.where(above, shrunk, 0.0) * edge / (1 + np.sqrt(ratio))
    return dataclasses.replace(spectrum, s=s, samples=np.zeros((0, 0)))


def _scaled(spectrum: Spectrum, frobenius: float) -> Spectrum:
    norm = float(np.linalg.norm(spectrum.s))
    factor = frobenius / norm if norm else 0.0
    return dataclasses.replace(
        spectrum,
        s=factor * spectrum.s,
        error=factor * spectrum.error,
        samples=factor * spectrum.samples,
    )


Record = Mapping[str, Any]


def beside(
    records: Sequence[Record], null_records: Sequence[Record], measure: str
) -> list[dict[str, Any]]:
    """A measure of a run beside that of its control, such as one with data.shuffle_responses.

    Records of `spectra.records`, joined by weight, matrix and step (if they have one). ratio: None
    where the control has 0. UserError for weights that only one of the two has.
    """
    control = {_key(record): record[measure] for record in null_records}
    missing = [record["weight"] for record in records if _key(record) not in control]
    if missing or len(records) != len(null_records):
        raise UserError(
            f"a run with {len(records)} spectra and its control with {len(null_records)} are not of"
            f" the same weights and steps{': ' + missing[0] if missing else ''}"
        )
    rows = []
    for record in records:
        value, null = record[measure], control[_key(record)]
        about = {name: record[name] for name in ("weight", "matrix", "step") if name in record}
        rows.append(about | {"value": value, "null": null, "ratio": value / null if null else None})
    return rows


def _key(record: Record) -> tuple[Any, ...]:
    return record["weight"], record["matrix"], record.get("step")


@dataclasses.dataclass(frozen=True)
class FunctionalRank:
    """The least rank whose truncated change keeps a share of what was learned.

    rank: None where not even the largest one does. scores: {rank: score} of all that were tried.
    """

    rank: int | None
    share: float
    scores: Mapping[int, float]


def functional_rank(
    score: Callable[[int], float],
    largest: int,
    *,
    untrained: float,
    trained: float,
    share: float = LEARNED,
) -> FunctionalRank:
    """By bisection over ranks 1 to `largest`: about log2(largest) calls of `score`.

    score(k): of the model with every dW truncated to rank k (`adapters.truncate`); higher or lower
    is better, as `trained` against `untrained`, the scores of the whole change and of the base. The
    share kept is (score(k) - untrained) / (trained - untrained), taken to grow with k; the scores
    tried are returned, so that a reader sees whether it did. UserError where nothing was learned.
    """
    if trained == untrained:
        raise UserError(
            "functional rank: trained and untrained score the same; nothing was learned"
        )
    if largest < 1:
        raise UserError(f"functional rank: largest={largest}; expected at least 1")
    scores: dict[int, float] = {}

    def keeps(rank: int) -> bool:
        scores[rank] = score(rank)
        return (scores[rank] - untrained) / (trained - untrained) >= share

    # Ranks up to `low` do not keep enough; `high` is the least one known to, if any is.
    low, high = 0, 1
    while not keeps(high):
        if high == largest:
            return FunctionalRank(None, share, scores)
        low, high = high, min(2 * high, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return FunctionalRank(high, share, scores)
