"""What the runs of a study vary by: the variances of its simulation, estimated from its own scores.

Two answers have a covariance because they are to one item, or of one seed, or both. Averages of
products over all pairs of each kind estimate them without bias (Koch, Technometrics 9, 1967), and
differences of the covariances are the components. Of answers that are right or wrong they are those
of the normal score behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lfl_jax.errors import UserError
from lfl_jax.statistics import probit
from lfl_jax.statistics.calibration import Design, MeasureModel, Shares
from lfl_jax.statistics.effects import Part
from lfl_jax.statistics.frontier import Arm, Axis


def design(arm: Arm, other: Arm) -> Design:
    """Simulated studies like the one with these two arms; both simulated ones have `arm`'s cells.

    Items of one cluster become one, their mean. UserError for a single seed or item.
    """
    learning = _model(arm.x, other.x)
    return Design(len(arm.x.values), learning, _model(arm.y, other.y))


def _model(axis: Axis, other: Axis) -> MeasureModel:
    values = _by_cluster(axis), _by_cluster(other)
    binary = _as_binary(*values)
    cubes = values if binary is None else binary
    means = tuple(cubes[0].mean(axis=(0, 2)).tolist())
    moments = _moments(cubes)
    shares = _shares(moments, is_binary=binary is not None)
    if binary is not None:
        return MeasureModel(means, cubes[0].shape[2], shares)
    variances = np.diag(moments.same_answer)[: len(means)]
    return MeasureModel(means, cubes[0].shape[2], shares, tuple(np.sqrt(variances).tolist()))


def _by_cluster(axis: Axis) -> Float[np.ndarray, "S P G"]:
    """Clusters as items, so that their plain mean is that of the items."""
    labels = Part(axis.values[:, 0], axis.clusters).labels()
    clusters = int(labels.max()) + 1
    if clusters == len(labels):
        return axis.values
    # Clusters that differ in size are linearised: the mean, and what the cluster adds to it.
    means = axis.values.mean(axis=2, keepdims=True)
    indicator = np.equal.outer(labels, np.arange(clusters)).astype(float)
    return means + (axis.values - means) @ indicator * (clusters / len(labels))


def _as_binary(
    *cubes: Float[np.ndarray, "S _ I"],
) -> tuple[Float[np.ndarray, "S _ I"], ...] | None:
    """Answers as 0 and 1; None where they are anything else.

    A loss against the base is 0 or 1 for an item that the base knew and 0 or -1 for another: the
    latter are moved up, in both arms, which moves no difference of the two.
    """
    lowest = np.minimum(*(cube.min(axis=(0, 1)) for cube in cubes))
    moved = tuple(cube - np.minimum(lowest, 0) for cube in cubes)
    binary = all(np.all((cube == 0) | (cube == 1)) for cube in moved)
    return moved if binary else None


@dataclass(frozen=True)
class _Moments:
    """Covariances of answers of cells k and l, of both arms: (N, N) each."""

    same_answer: Float[np.ndarray, "N N"]
    same_item: Float[np.ndarray, "N N"]
    same_seed: Float[np.ndarray, "N N"]
    means: Float[np.ndarray, " N"]
    arms: Int[np.ndarray, " N"]


def _moments(cubes: Sequence[Float[np.ndarray, "S _ I"]]) -> _Moments:
    cells = np.concatenate(cubes, axis=1)
    seeds, _, items = cells.shape
    if seeds < 2 or items < 2:
        raise UserError(f"{seeds} seeds and {items} items: variances need at least 2 of each")

    # Sums of products over pairs: of the same answers, of one item, of one seed, and of all.
    same = np.einsum("ski,sli->kl", cells, cells)
    one_item = _products(cells.sum(axis=0))
    one_seed = _products(cells.sum(axis=2).T)
    every = _products(cells.sum(axis=(0, 2))[:, None])

    # Answers that share neither have no covariance: the others' are counted from their products.
    count = seeds * items
    apart = (every - one_seed - one_item + same) / (count * (seeds - 1) * (items - 1))
    return _Moments(
        same / count - apart,
        (one_item - same) / (count * (seeds - 1)) - apart,
        (one_seed - same) / (count * (items - 1)) - apart,
        cells.mean(axis=(0, 2)),
        np.repeat(np.arange(len(cubes)), [cube.shape[1] for cube in cubes]),
    )


def _products(sums: Float[np.ndarray, "N M"]) -> Float[np.ndarray, "N N"]:
    return sums @ sums.T


def _shares(moments: _Moments, is_binary: bool) -> Shares:
    """From the correlations of answers of two arms, of one arm and of one cell."""
    one_arm = np.equal.outer(moments.arms, moments.arms)
    cell = np.eye(len(moments.arms), dtype=bool)
    components = []
    for covariances in (moments.same_item, moments.same_seed):
        further = 0.0
        # A component is what nearer answers have in common beyond those further apart; estimates of
        # small ones may fall below 0, where there is none.
        for kind in (~one_arm, one_arm & ~cell, cell):
            nearer = max(_correlation(moments, covariances, kind, is_binary), further)
            components.append(nearer - further)
            further = nearer
    total = max(sum(components), 1.0)
    return Shares(*(component / total for component in components))


def _correlation(
    moments: _Moments,
    covariances: Float[np.ndarray, "N N"],
    kind: Bool[np.ndarray, "N N"],
    is_binary: bool,
) -> float:
    """Of the scores of answers, over all pairs of cells of a kind; 0 where there are none."""
    first, second = np.nonzero(kind)
    if not len(first):
        return 0.0
    total = float(np.sum(covariances[kind]))
    if is_binary:
        return probit.correlation(moments.means[first], moments.means[second], total)
    deviations = np.sqrt(np.maximum(np.diag(moments.same_answer), 0))
    scale = float(np.sum(deviations[first] * deviations[second]))
    return total / scale if scale > 0 else 0.0
