"""Claims about the weights: ranks of their changes, and distances from the base.

Each is a rule on what a study with weights = True measured of every run, and each says in its
evidence what it was compared with: the null.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Effect, over_seeds
from lfl_jax.studies import predictors
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.claims import best
from lfl_jax.studies.claims.claim import Checked, Status, together, untested
from lfl_jax.studies.claims.distance import NOT_MEASURED, more_than
from lfl_jax.studies.claims.lora_and_full import NO_CONTRAST, pairs
from lfl_jax.studies.findings import Findings

NO_WEIGHTS = "the study does not measure weights (weights = True)"
# log10 of the ratio of ranks that the paper gives.
TENFOLD, HUNDREDFOLD = 1.0, 2.0


def distances_explain_less(findings: Findings) -> Checked:
    """R^2 of the log divergence is above that of every distance of the weights, seed by seed.

    Null: a distance explains as much.
    """
    explained = findings.predictors
    divergence = explained.get(predictors.DIVERGENCE)
    if divergence is None:
        return untested(NOT_MEASURED)
    shares = {name: one.by_seed for name, one in explained.items() if name in predictors.DISTANCES}
    checks = [more_than(divergence.by_seed - share, name) for name, share in shares.items()]
    return together(checks, NO_WEIGHTS)


def full_has_higher_rank(findings: Findings) -> Checked:
    """The ratio of k90, full finetuning's over LoRA's, each at its best rate, is 10 to 100.

    Null: a ratio of 1.
    """
    return together([_ratio_of_ranks(findings, *pair) for pair in pairs(findings)], NO_CONTRAST)


def _ratio_of_ranks(findings: Findings, lora: str, full: str) -> Checked:
    grids = [findings.grids[method] for method in (full, lora)]
    if not all("k90" in grid.measures for grid in grids):
        return untested(NO_WEIGHTS)
    try:
        length = best.shared_length(grids)
    except UserError as error:
        return untested(str(error))
    ranks = [at_best(grid, "k90", length) for grid in grids]
    if not all(np.all(rank > 0) for rank in ranks):
        return Checked(Status.UNDECIDED, f"{lora} or {full} changed nothing: a rank of 0")

    ratio = over_seeds(np.log10(ranks[0] / ranks[1]))
    random = [float(at_best(grid, "k90_random", length).mean()) for grid in grids]
    means = [float(rank.mean()) for rank in ranks]
    evidence = (
        f"k90 of {full} {means[0]:.3g} (a random change {random[0]:.3g}), of {lora} {means[1]:.3g}"
        f" (random factors {random[1]:.3g}); ratio {_power(ratio)}"
    )
    return _tenfold(ratio, random[0] / means[1], evidence)


def _tenfold(ratio: Effect, largest: float, evidence: str) -> Checked:
    """largest: the ratio that a random change of full finetuning's shapes would have."""
    low, high = ratio.interval()
    p = ratio.p_value()
    # Small matrices have small ranks, whatever was learned.
    if largest < 10:
        return Checked(
            Status.UNDECIDED, f"{evidence}: matrices of this size allow {largest:.2g} at most", p
        )
    if math.isnan(low) or low <= 0 < TENFOLD <= high:
        return Checked(Status.UNDECIDED, f"{evidence}: 1 and 10 cannot be told apart", p)
    if low <= HUNDREDFOLD and high >= TENFOLD:
        return Checked(Status.REPRODUCED, evidence, p)
    return Checked(Status.CONTRADICTED, evidence, ratio.p_value(TENFOLD))


def _power(log10: Effect) -> str:
    low, high = log10.interval()
    return f"{10**log10.mean:.3g} [{10**low:.3g}, {10**high:.3g}]"


def at_best(grid: Grid, measure: str, length: int) -> Float[np.ndarray, " S"]:
    """A measure of each seed's run at the cell that learned most with the other seeds."""
    cells: Int[np.ndarray, " S"] = best.chosen_cells(grid, length)
    return grid.measures[measure][np.arange(len(cells)), cells]
