"""Whether LoRA keeps what a model answers more diverse than full finetuning does.

Figure 5 of the paper counts the different texts among 50 samples of a HumanEval problem: full
finetuning gives fewest. Measured by tasks that draw several samples of an item.
"""

import functools

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Part, over_seeds_and_items
from lfl_jax.statistics.verdicts import Verdict, decide
from lfl_jax.studies.arms import Grid, Measure, item_values
from lfl_jax.studies.claims import best
from lfl_jax.studies.claims.claim import Checked, of_decision, together, untested
from lfl_jax.studies.claims.lora_and_full import NO_CONTRAST, pairs
from lfl_jax.studies.findings import Findings

NOT_MEASURED = (
    "no task of the study counts the different answers among several samples of an item"
    " (humaneval or mbpp with eval.samples above 1)"
)
# A difference that nobody would care for: of the different answers that the base gives.
SHARE_OF_BASE = 0.05


def is_kept_better(findings: Findings) -> Checked:
    """More different answers than full finetuning's, each at its best learning rate."""
    measures = _measured(findings)
    if not measures:
        return untested(NOT_MEASURED)
    compared = functools.partial(_more_diverse, findings)
    checks = [compared(*pair, measure) for pair in pairs(findings) for measure in measures]
    return together(checks, NO_CONTRAST)


def _measured(findings: Findings) -> list[Measure]:
    """Of every task with samples the number of different ones, its first metric of diversity."""
    measures = []
    for task, metrics in findings.base.tasks.items():
        # Further ones count those that pass and those that fail, of which a better model has
        # more or fewer whatever its diversity.
        names = [name for name, one in metrics.items() if one.metric.section == "diversity"]
        measures += [Measure(task, name) for name in names[:1]]
    return measures


def _more_diverse(findings: Findings, lora: str, full: str, measure: Measure) -> Checked:
    grids = findings.grids[lora], findings.grids[full]
    like = measure.of(findings.base)
    try:
        length = best.shared_length(list(grids))
        values = [_at_best(findings, grid, length, measure) for grid in grids]
    # A run without the task, or on other items.
    except UserError as error:
        return untested(str(error))
    effect = over_seeds_and_items(Part(values[0] - values[1], like.column.clusters))
    decision = decide(effect, SHARE_OF_BASE * like.estimate.mean)
    return of_decision(decision, Verdict.MORE, f"{lora} – {full}: {measure}")


def _at_best(
    findings: Findings, grid: Grid, length: int, measure: Measure
) -> Float[np.ndarray, "S I"]:
    """Of each seed at the rate that learned most with the other seeds."""
    scores = {run.place: run.scores for run in findings.runs}
    chosen = [grid.cells[index] for index in best.chosen_cells(grid, length)]
    method = grid.arm.name
    by_seed = [
        item_values(findings.base, scores[method, cell, seed], measure)
        for cell, seed in zip(chosen, grid.seeds, strict=True)
    ]
    return np.stack(by_seed)
