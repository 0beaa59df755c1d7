"""The claim that a method's best learning rate falls with the curvature it starts at.

It is a rule on what a study with curvature > 0 measured of every run: the top Hessian eigenvalue of
its loss at step 0, by what trains.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.statistics import learning_rates
from lfl_jax.statistics.effects import Effect
from lfl_jax.studies.claims.claim import Checked, Status, untested
from lfl_jax.studies.findings import Findings

NO_CURVATURE = "the study does not measure the curvature at step 0 (curvature > 0)"
LEVEL = 0.05
FEWEST_ARMS = 3
# Orders of arms: all of so many arms at most, else so many drawn ones.
LISTED, DRAWN = 7, 20_000


def best_rate_falls_with_curvature(findings: Findings) -> Checked:
    """Over arms, the log of the best rate falls with the log of the top Hessian eigenvalue.

    Nulls: a slope of 0 for these arms, whose best rates are known to an error; and arms whose
    eigenvalues are no more than labels, exchanged in every way. The weaker evidence of the two
    counts, so that fewer than 4 arms decide nothing.
    """
    if not any("curvature" in grid.measures for grid in findings.grids.values()):
        return untested(NO_CURVATURE)
    measured = arms(findings)
    if len(measured.x) < FEWEST_ARMS or not np.ptp(measured.x) > 0:
        return Checked(
            Status.UNDECIDED,
            f"{len(measured.x)} arms have a positive eigenvalue and a best rate inside of their"
            f" sweep; a slope needs {FEWEST_ARMS} that differ",
        )
    slope = measured.slope()
    by_chance = measured.chance_of(slope.mean)
    p = max(slope.p_value(), by_chance)
    low, high = slope.interval()
    evidence = (
        f"slope over {len(measured.x)} arms {slope.mean:+.2f} [{low:+.2f}, {high:+.2f}] decades of"
        f" the rate per decade of the eigenvalue; {by_chance:.2g} of the ways to exchange them are"
        " as steep"
    )
    if not p < LEVEL:
        return Checked(Status.UNDECIDED, evidence, p)
    return Checked(Status.REPRODUCED if slope.mean < 0 else Status.CONTRADICTED, evidence, p)


@dataclass(frozen=True)
class Arms:
    """x: log10 of each arm's top eigenvalue, over its seeds. rates: log10 of its best rate."""

    names: tuple[str, ...]
    x: Float[np.ndarray, " M"]
    rates: tuple[Effect, ...]

    def slope(self) -> Effect:
        """With the error that the best rates' own errors leave it."""
        return learning_rates.slope(self.x, self.rates)

    def chance_of(self, slope: float) -> float:
        """The share of all orders of the arms with a slope at least as steep, the same way."""
        means = np.array([rate.mean for rate in self.rates])
        slopes = means[_orders(len(means))] @ learning_rates.slope_weights(self.x)
        # Rounding must not lose the order that is there.
        return float(np.mean(slopes * np.sign(slope) >= abs(slope) * (1 - 1e-9)))


def _orders(count: int) -> Int[np.ndarray, "N M"]:
    """All orders of so many, or DRAWN random ones of more than LISTED."""
    if count <= LISTED:
        return np.array(list(itertools.permutations(range(count))))
    rng = np.random.default_rng(0)
    return rng.permuted(np.tile(np.arange(count), (DRAWN, 1)), axis=1)


def arms(findings: Findings) -> Arms:
    """Those with a best rate inside of their sweep and a positive eigenvalue, which may be none."""
    names, x, rates = [], [], []
    for one in findings.best_rates:
        values = findings.grids[one.method].measures.get("curvature")
        if values is not None and one.optimum is not None and np.all(values > 0):
            names.append(one.method)
            x.append(float(np.log10(values).mean()))
            rates.append(one.optimum.log10)
    return Arms(tuple(names), np.array(x), tuple(rates))
