"""What explains forgetting, whatever the method: divergence, rate, learning, weights, the target.

Each predictor alone is fitted to the runs of a seed by a parabola, and its share of the variance is
R^2 (the coefficient of determination). R^2 of the seeds give its interval. All predictors are
compared on the same runs: one that any run lacks is left out.

A parabola through N runs explains 2 / (N - 1) of the variance of noise, and one through two
different values 1 / (N - 1): that is the null beside every share.

Letters: S seeds, N runs of a seed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.statistics.effects import Effect, over_seeds
from lfl_jax.studies.arms import Grid

Values = Float[np.ndarray, "S N"]

DIVERGENCE = "log divergence from the base"
RATE = "log learning rate"
LEARNING = "learning"
METHOD = "method"
# Of the polynomial, as in the regression that asks whether the method still matters.
DEGREE = 2


def _log(values: Values) -> Values | None:
    """None for values that have no logarithm, as a change of exactly 0 has none."""
    return np.log(values) if np.all(values > 0) else None


def _plain(values: Values) -> Values:
    return values


# Predictor: the measure of a run's weights or start that it is (a name of `run_measures`), and how
# it enters. Distances of the weights first: they are what the divergence competes with.
DISTANCES: dict[str, tuple[str, Callable[[Values], Values | None]]] = {
    "log norm of dW": ("frobenius", _log),
    "log relative norm of dW": ("relative_norm", _log),
    "log spectral norm of dW": ("spectral", _log),
    "k90 of dW": ("k90", _plain),
    "effective rank of dW": ("effective_rank", _plain),
}
MEASURED = DISTANCES | {
    "intruder dimensions": ("intruders", _plain),
    "log top Hessian eigenvalue at step 0": ("curvature", _log),
    "the base's loss on the target": ("base_target_nll", _plain),
    "unigram KL of the target from source text": ("unigram_kl", _plain),
}


@dataclass(frozen=True)
class Predictor:
    """by_seed: the share of forgetting's variance over the runs of each seed.

    null: the share that is expected of a predictor which has nothing to do with forgetting.
    """

    by_seed: Float[np.ndarray, " S"]
    null: float

    @property
    def r2(self) -> Effect:
        """Over seeds."""
        return over_seeds(self.by_seed)

    def interval(self) -> tuple[float, float]:
        """95 %, as far as a share can go: from 0 to 1."""
        low, high = self.r2.interval()
        return max(low, 0.0), min(high, 1.0)


def explain(by_method: Mapping[str, Grid]) -> dict[str, Predictor]:
    """{predictor: its share}, of those that were measured; empty where a fit would be exact.

    A fit of as many coefficients as runs explains everything and says nothing.
    """
    # A prompt changes no weights: there is no distance, and nothing to explain.
    grids = [grid for grid in by_method.values() if not grid.is_prompted]
    forgotten = np.hstack([grid.arm.y.by_run() for grid in grids])
    values = _values(grids)
    runs = forgotten.shape[1]
    shares = {
        name: Predictor(_r2_by_seed(x, forgotten), _null(x))
        for name, x in values.items()
        if runs > DEGREE + 2
    }
    if runs > len(grids) + 1 and len(grids) > 1:
        null = (len(grids) - 1) / (runs - 1)
        shares[METHOD] = Predictor(_r2_of_groups(grids, forgotten), null)
    return shares


def _values(grids: list[Grid]) -> dict[str, Values]:
    """{predictor: its value of every run}, the columns in the order of `grids`."""
    seeds = len(grids[0].seeds)
    rates = np.concatenate([grid.rates for grid in grids])
    values = {
        RATE: np.tile(np.log(rates), (seeds, 1)),
        LEARNING: np.hstack([grid.arm.x.by_run() for grid in grids]),
    }
    if all(grid.divergence is not None for grid in grids):
        far = _log(np.hstack([grid.divergence.by_run() for grid in grids]))
        # An untrained arm has no logarithm of its divergence: it would have to be left out of all.
        values |= {} if far is None else {DIVERGENCE: far}
    for name, (measure, enters) in MEASURED.items():
        if all(measure in grid.measures for grid in grids):
            x = enters(np.hstack([grid.measures[measure] for grid in grids]))
            # What is the same for all runs of a seed can explain nothing, and was no predictor.
            if x is not None and np.all(np.ptp(x, axis=1) > 0):
                values[name] = x
    return values


def _null(x: Values) -> float:
    """Of a parabola in x: as many degrees of freedom as it can use."""
    values = min(len(np.unique(row)) for row in x)
    return min(DEGREE, values - 1) / (x.shape[1] - 1)


def _r2_by_seed(x: Values, y: Values) -> Float[np.ndarray, " S"]:
    shares = []
    for predictor, outcome in zip(x, y, strict=True):
        # Centred, so that the powers are not nearly collinear.
        centred = predictor - predictor.mean()
        powers = np.stack([centred**power for power in range(DEGREE + 1)], axis=1)
        fitted = powers @ np.linalg.lstsq(powers, outcome, rcond=None)[0]
        shares.append(_share(fitted, outcome))
    return np.array(shares)


def _r2_of_groups(grids: list[Grid], y: Values) -> Float[np.ndarray, " S"]:
    """Of each method's mean."""
    groups = np.repeat(np.arange(len(grids)), [len(grid.cells) for grid in grids])
    means = np.stack([y[:, groups == group].mean(axis=1) for group in range(len(grids))], axis=1)
    return np.array([_share(row[groups], outcome) for row, outcome in zip(means, y, strict=True)])


def _share(fitted: Float[np.ndarray, " N"], outcome: Float[np.ndarray, " N"]) -> float:
    spread = float(np.sum((outcome - outcome.mean()) ** 2))
    return 1 - float(np.sum((outcome - fitted) ** 2)) / spread if spread > 0 else 0.0
