"""Does the method still matter once the distance from the base is accounted for?

Forgetting is regressed on the log of the divergence, its square, and the method. The term of the
method is what the divergence does not explain. Each seed is regressed apart, and the seeds' terms
go into a t-test: with few seeds this keeps its level where clustered errors do not (Ibragimov and
Mueller, Journal of Business & Economic Statistics 28, 2010).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Effect, over_seeds


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
    divergence: Float[np.ndarray, "S N"],
    forgetting: Float[np.ndarray, "S N"],
    is_first: Bool[np.ndarray, " N"],
    degree: int = 2,
) -> Mediation:
    """Of N runs per seed, those of the first method marked. UserError for too few of them.

    divergence: positive, in nats, of the runs' models from the base. degree: of the polynomial in
    its log.
    """
    coefficients = degree + 2
    runs = divergence.shape[1]
    if runs <= coefficients:
        raise UserError(
            f"{runs} runs per seed; expected more than {coefficients}, the terms of the regression"
        )
    if not np.all(divergence > 0):
        raise UserError("a divergence of 0 has no logarithm: leave out identity and untrained arms")

    # One row per seed: the method's term with and without the divergence, and the three R^2.
    rows = [
        _of_seed(np.log(x), y, is_first, degree)
        for x, y in zip(divergence, forgetting, strict=True)
    ]
    terms, totals, *explained = np.array(rows).T
    return Mediation(
        over_seeds(terms), over_seeds(totals), *(float(np.mean(share)) for share in explained)
    )


def _of_seed(
    log_divergence: Float[np.ndarray, " N"],
    forgetting: Float[np.ndarray, " N"],
    is_first: Bool[np.ndarray, " N"],
    degree: int,
) -> tuple[float, float, float, float, float]:
    # Coded -1/2 and 1/2, so that the coefficient is the difference of the two methods.
    method = is_first.astype(float)[:, None] - 0.5
    powers = _powers(log_divergence, degree)

    at_equal_divergence, r2_both = _fit(np.hstack([method, powers]), forgetting)
    unadjusted, r2_method = _fit(method, forgetting)
    _, r2_divergence = _fit(powers, forgetting)
    return (float(at_equal_divergence[0]), float(unadjusted[0]), r2_divergence, r2_both, r2_method)


def _powers(x: Float[np.ndarray, " N"], degree: int) -> Float[np.ndarray, "N degree"]:
    # Centred, so that the powers are not nearly collinear.
    return np.stack([(x - x.mean()) ** power for power in range(1, degree + 1)], axis=1)


def _fit(
    design: Float[np.ndarray, "N K"], outcome: Float[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " K"], float]:
    """Least squares with an intercept: the other coefficients, and R^2."""
    # The intercept is last, so that the caller's coefficients keep their places.
    columns = np.hstack([design, np.ones((len(outcome), 1))])
    solution = np.linalg.lstsq(columns, outcome, rcond=None)[0]
    residual = outcome - columns @ solution
    spread = float(np.sum((outcome - outcome.mean()) ** 2))
    explained = 1 - float(residual @ residual) / spread if spread > 0 else 0.0
    return solution[:-1], explained
