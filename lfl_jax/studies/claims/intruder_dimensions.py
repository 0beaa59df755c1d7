"""Claims about intruder dimensions: whether they go with forgetting, and whether they cause it."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from lfl_jax.statistics.effects import Part, over_seeds, over_seeds_and_items
from lfl_jax.statistics.verdicts import Verdict, decide
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.claims.claim import Checked, Status, of_decision, together, untested
from lfl_jax.studies.claims.weights import NO_WEIGHTS
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import LORA

# Terms of the regression: a constant, the log norm and its square, the intruders.
TERMS = 4
# Interventions of arms without training: on the intruders, and the control.
INTRUDERS, RANDOM = "intruders", "random_directions"
# (arm that is altered, learning rate, steps, factor) of a cell
Place: TypeAlias = tuple[str, float, int, float]
NO_ARMS = f"the study has no arms without training that scale {INTRUDERS} and {RANDOM} below 1"


def intruders_forget(findings: Findings) -> Checked:
    """LoRA forgets more the more intruder dimensions its change has, at an equal norm of it.

    Per seed, forgetting is regressed on the log of the change's norm, its square, and the number of
    intruders. Null: their coefficient is 0, as where the norm brings both. It is an observation;
    `analysis.interventions` scales the intruders themselves.
    """
    checks = [
        _of_intruders(findings, method, grid)
        for method, grid in findings.grids.items()
        if findings.traits[method].kind == LORA
    ]
    return together(checks, "the study has no arm of LoRA")


def _of_intruders(findings: Findings, method: str, grid: Grid) -> Checked:
    if not {"intruders", "relative_norm"} <= grid.measures.keys():
        return untested(NO_WEIGHTS)
    intruders, norm = grid.measures["intruders"], grid.measures["relative_norm"]
    counts = f"{method}: {intruders.min():g} to {intruders.max():g} intruders"
    if "intruders_random" in grid.measures:
        counts += (
            f" (random changes of these norms: {grid.measures['intruders_random'].mean():.3g})"
        )
    if len(grid.cells) <= TERMS:
        return Checked(Status.UNDECIDED, f"{counts}, of {len(grid.cells)} runs a seed: too few")
    if not np.all(np.ptp(intruders, axis=1) > 0) or not np.all(norm > 0):
        return Checked(Status.UNDECIDED, f"{counts}: a seed's runs do not differ")

    # From the fewest to the most, so that it is in the unit of forgetting.
    effect = over_seeds(_slopes(intruders, norm, grid.arm.y.by_run()) * np.ptp(intruders))
    decision = decide(effect, findings.question.margin)
    return of_decision(decision, Verdict.MORE, f"{counts}; what they add at an equal norm:")


def _slopes(
    intruders: Float[np.ndarray, "S P"],
    norm: Float[np.ndarray, "S P"],
    forgotten: Float[np.ndarray, "S P"],
) -> Float[np.ndarray, " S"]:
    """Of forgetting over intruders, of each seed, with the norm in the regression."""
    slopes = []
    for count, x, y in zip(intruders, np.log(norm), forgotten, strict=True):
        centred = x - x.mean()
        columns = np.stack([count, np.ones_like(x), centred, centred**2], axis=1)
        slopes.append(np.linalg.lstsq(columns, y, rcond=None)[0][0])
    return np.array(slopes)


def intruders_cause(findings: Findings) -> Checked:
    """Scaling a finished change's intruders down takes forgetting away, more than a control does.

    The control, and the null: as many random directions with the same singular values, scaled by
    as much. Both are arms without training of the same runs.
    """
    arms = {name: _scaled_down(findings, name) for name in (INTRUDERS, RANDOM)}
    shared = sorted(arms[INTRUDERS].keys() & arms[RANDOM].keys())
    if not shared:
        return untested(NO_ARMS)
    by_cell = [arms[INTRUDERS][cell] - arms[RANDOM][cell] for cell in shared]
    clusters = next(iter(findings.grids.values())).arm.y.clusters
    effect = over_seeds_and_items(Part(np.mean(by_cell, axis=0), clusters))
    decision = decide(effect, findings.question.margin)
    label = f"intruders scaled to {_factors(shared)} less random directions, {len(shared)} cells:"
    return of_decision(decision, Verdict.LESS, label)


def _factors(places: Sequence[Place]) -> str:
    factors = {factor for *_, factor in places}
    return ", ".join(f"{factor:g}" for factor in sorted(factors))


def _scaled_down(findings: Findings, intervention: str) -> dict[Place, Float[np.ndarray, "S I"]]:
    """{cell: forgetting} of the cells with this intervention, by a factor below 1."""
    forgotten = {}
    for method, grid in findings.grids.items():
        # Of an arm without training it is the name of a run of the arm that it alters.
        altered = findings.traits[method].rest.partition("-")[0]
        for index, cell in enumerate(grid.cells):
            if cell.point.intervention == intervention and float(cell.point.value) < 1:
                where = (altered, cell.lr, cell.step, float(cell.point.value))
                forgotten[where] = grid.arm.y.values[:, index]
    return forgotten
