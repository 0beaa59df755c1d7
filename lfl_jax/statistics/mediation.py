"""Does the method still matter once the distance from the base is accounted for?

Forgetting is regressed on the log of the divergence, its square, and the method. The term of the
method is what the divergence does not explain. Each seed is regressed apart (Ibragimov and Mueller,
Journal of Business & Economic Statistics 28, 2010): with few seeds this keeps its level where
clustered errors do not. All seeds are scored on the same items, whose share of the error is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Effect, Part, over_seeds_and_items
from lfl_jax.statistics.frontier import Axis, log_means


@dataclass(frozen=True)
class Mediation:
    """effect: the method's at equal divergence. total: without the divergence in the model.

    r2_divergence, r2_both, r2_method: shares of the variance over runs that the divergence alone,
    both, and the method alone explain, averaged over seeds.
    """

    effect: Effect
    total: Effect
    r2_divergence: float
    r2_both: float
    r2_method: float


def mediate(
    divergence: Axis, forgetting: Axis, is_first: Bool[np.ndarray, " N"], degree: int = 2
) -> Mediation:
    """Of N runs per seed, those of the first method marked.

    divergence: positive, in nats, of the runs' models from the base. degree: of the polynomial in
    its log. UserError for too few runs, and where the methods share no range of divergence: the
    regression would compare what neither reached.
    """
    coefficients = degree + 2
    if len(is_first) <= coefficients:
        raise UserError(
            f"{len(is_first)} runs per seed; expected more than {coefficients}, the terms of the"
            " regression"
        )
    far = log_means(divergence)
    runs_far, runs_forgot = far.by_run(), forgetting.by_run()
    _require_overlap(runs_far, is_first)

    columns = [_columns(x, is_first, degree) for x in runs_far]
    without_divergence = [seed[:, [0, -1]] for seed in columns]
    pairs = list(zip(columns, runs_forgot, strict=True))
    # What the term owes to the divergence's items is linearised; their mean is the runs' own.
    slopes = [_slopes(*pair) for pair in pairs]
    deviations = Axis(far.values - runs_far[:, :, None], far.clusters)
    return Mediation(
        over_seeds_and_items(
            _part(list(map(_weights, columns)), forgetting), _part(slopes, deviations)
        ),
        over_seeds_and_items(_part(list(map(_weights, without_divergence)), forgetting)),
        _explained([seed[:, 1:] for seed in columns], runs_forgot),
        _explained(columns, runs_forgot),
        _explained(without_divergence, runs_forgot),
    )


def _require_overlap(far: Float[np.ndarray, "S N"], is_first: Bool[np.ndarray, " N"]) -> None:
    first, second = far[:, is_first], far[:, ~is_first]
    if max(first.min(), second.min()) >= min(first.max(), second.max()):
        reaches = [f"{np.exp(x.min()):.3g} to {np.exp(x.max()):.3g} nats" for x in (first, second)]
        raise UserError(
            f"the methods share no range of divergence, {' against '.join(reaches)}; extend the"
            " learning rates of one"
        )


def _columns(
    x: Float[np.ndarray, " N"], is_first: Bool[np.ndarray, " N"], degree: int
) -> Float[np.ndarray, "N K"]:
    """The regression of a seed: the method, the powers of log divergence, the intercept."""
    # Coded -1/2 and 1/2, so that the coefficient is the difference of the two methods.
    method = is_first.astype(float) - 0.5
    # Centred, so that the powers are not nearly collinear.
    powers = [(x - x.mean()) ** power for power in range(1, degree + 1)]
    return np.stack([method, *powers, np.ones_like(x)], axis=1)


def _weights(columns: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " N"]:
    """Of the runs' forgetting in the first coefficient of least squares."""
    return np.linalg.pinv(columns)[0]


def _slopes(
    columns: Float[np.ndarray, "N K"], outcome: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """The derivative of the first coefficient by each run's log divergence.

    With X the columns, b the coefficients, r the residuals and d a run's row of dX/dx:
        -(d b) X+ + (d (X'X)+) r, the first element of each.
    """
    solution = np.linalg.pinv(columns)
    coefficients = solution @ outcome
    residuals = outcome - columns @ coefficients

    # Of x^p it is p x^(p - 1), x^0 being the intercept; method and intercept have none. Centring
    # moves all runs alike, which the intercept absorbs.
    powers = columns[:, 1:-1]
    lower = np.hstack([columns[:, -1:], powers[:, :-1]])
    derivative = np.zeros_like(columns)
    derivative[:, 1:-1] = lower * np.arange(1, powers.shape[1] + 1)

    through_fit = -solution[0] * (derivative @ coefficients)
    return through_fit + derivative @ (solution @ solution[0]) * residuals


def _part(weights: Sequence[Float[np.ndarray, " N"]], axis: Axis) -> Part:
    """What every seed and item adds to a sum over runs with these weights by seed."""
    return Part(np.einsum("sn,sni->si", np.stack(weights), axis.values), axis.clusters)


def _explained(
    columns: Sequence[Float[np.ndarray, "N K"]], outcomes: Float[np.ndarray, "S N"]
) -> float:
    """R^2, averaged over seeds."""
    return float(np.mean([_r2(x, y) for x, y in zip(columns, outcomes, strict=True)]))


def _r2(columns: Float[np.ndarray, "N K"], outcome: Float[np.ndarray, " N"]) -> float:
    residual = outcome - columns @ np.linalg.lstsq(columns, outcome, rcond=None)[0]
    spread = float(np.sum((outcome - outcome.mean()) ** 2))
    return 1 - float(residual @ residual) / spread if spread > 0 else 0.0
