"""Claims on where, and when, full finetuning changes weights with a high rank.

Source: arXiv 2405.09673, section 4.6 and figure 6. The rank is k90, the singular values that hold
90 % of the change's energy. Between matrices of several shapes it is compared as a share of what a
random change of that shape has: the null.
"""

import numpy as np
from jaxtyping import Float

from lfl_jax.statistics.effects import Effect, in_words, over_seeds
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.claims import best
from lfl_jax.studies.claims.claim import Checked, Status, together, untested
from lfl_jax.studies.claims.weights import NO_WEIGHTS, at_best
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import FULL

NO_FULL = "the study has no full finetuning"
ONE_LENGTH = "no learning rate was trained for several lengths"


def grows_with_training(findings: Findings) -> Checked:
    """k90 rises with the log of the steps, at an equal learning rate."""
    return together([_grows(method, grid) for method, grid in _full(findings).items()], NO_FULL)


def _grows(method: str, grid: Grid) -> Checked:
    if "k90" not in grid.measures:
        return untested(NO_WEIGHTS)
    slopes = []
    for rate in sorted(set(grid.rates)):
        cells = [index for index, cell in enumerate(grid.cells) if cell.lr == rate]
        steps = np.log2([grid.cells[index].step for index in cells])
        if len(cells) > 1:
            ranks = grid.measures["k90"][:, cells]
            slopes.append(best.slope(steps, ranks[:, :, None])[:, 0])
    if not slopes:
        return untested(ONE_LENGTH)
    return _above_zero(over_seeds(np.mean(slopes, axis=0)), f"{method}: k90 per doubling of steps")


def is_higher_in_the_mlp(findings: Findings) -> Checked:
    """Of the MLP's matrices less of attention's, at the best learning rate."""
    return _difference(findings, "mlp", "attention")


def is_lower_at_the_ends(findings: Findings) -> Checked:
    """Of the layers between less of the first and the last, at the best learning rate."""
    return _difference(findings, "middle", "ends")


def _difference(findings: Findings, first: str, second: str) -> Checked:
    checks = [_of_groups(method, grid, (first, second)) for method, grid in _full(findings).items()]
    return together(checks, NO_FULL)


def _of_groups(method: str, grid: Grid, groups: tuple[str, str]) -> Checked:
    names = [f"k90_share_{group}" for group in groups]
    if not grid.measures.keys() >= {*names}:
        return untested(NO_WEIGHTS)
    shares: list[Float[np.ndarray, " S"]] = [at_best(grid, name, grid.longest) for name in names]
    means = [f"{group} {share.mean():.2f}" for group, share in zip(groups, shares, strict=True)]
    label = f"{method}: k90 over a random change's, {', '.join(means)}; difference"
    return _above_zero(over_seeds(shares[0] - shares[1]), label)


def _above_zero(effect: Effect, label: str) -> Checked:
    """No margin was declared for a rank: the claim is about the sign."""
    low, high = effect.interval()
    evidence = f"{label} {in_words(effect.mean, (low, high), '+.3g')}"
    if low > 0:
        return Checked(Status.REPRODUCED, evidence, effect.p_value())
    if high < 0:
        return Checked(Status.CONTRADICTED, evidence, effect.p_value())
    return Checked(Status.UNDECIDED, evidence, effect.p_value())


def _full(findings: Findings) -> dict[str, Grid]:
    kinds = findings.traits
    return {name: grid for name, grid in findings.grids.items() if kinds[name].kind == FULL}
