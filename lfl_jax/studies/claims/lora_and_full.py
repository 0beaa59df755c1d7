"""Claims about LoRA against full finetuning, checked on the contrasts that a study declared."""

import numpy as np

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Part, over_seeds_and_items
from lfl_jax.statistics.verdicts import Decision, Verdict, decide
from lfl_jax.studies.answers import BEST_RATE, PRIMARY, Answer
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.best_rates import rate_ratio
from lfl_jax.studies.claims import best
from lfl_jax.studies.claims.claim import (
    Checked,
    Status,
    doubted,
    of_decision,
    of_primary,
    reversed_decision,
    together,
    untested,
)
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import FULL, LORA

# What is called equal learning, of what LoRA gained over the base: the "1 to 2 %" of 2602.04998.
SHARE_OF_GAIN = 0.02
NO_CONTRAST = "no contrast of LoRA with full finetuning was declared"
# log10 of the ratio that the paper's advice gives for instruction finetuning.
TENFOLD = 1.0


def pairs(findings: Findings) -> list[tuple[str, str]]:
    """(LoRA's, full finetuning's) arm of every contrast of the two."""
    both_ways = [
        way for first, second in findings.pairs for way in ((first, second), (second, first))
    ]
    kinds = {method: findings.traits[method].kind for method in findings.grids}
    return [(lora, full) for lora, full in both_ways if (kinds[lora], kinds[full]) == (LORA, FULL)]


def learning_margin(findings: Findings, reference: Grid) -> float:
    """A difference in learning that nobody would care for; UserError where nothing was learned."""
    most = float(reference.arm.x.means().max())
    gain = most - findings.base_learning
    if not gain > 0:
        raise UserError(f"{reference.arm.name} learned nothing")
    return SHARE_OF_GAIN * gain


def of_learning(
    findings: Findings, pair: tuple[str, str], claimed: Verdict, *, reference: str
) -> Checked:
    """The first's learning less the second's, each at its best learning rate.

    reference: the method whose gain the margin is a share of.
    """
    first, second = (findings.grids[method] for method in pair)
    try:
        effect = best.learning_difference(first, second)
        decision = decide(effect, learning_margin(findings, findings.grids[reference]))
    except UserError as error:
        return untested(str(error))
    return of_decision(decision, claimed, f"{pair[0]} – {pair[1]}: learning")


def learns_less(findings: Findings) -> Checked:
    """The difference in learning, each at its own best rate."""
    return together([_learns_less(findings, *pair) for pair in pairs(findings)], NO_CONTRAST)


def _learns_less(findings: Findings, lora: str, full: str) -> Checked:
    checked = of_learning(findings, (lora, full), Verdict.LESS, reference=lora)
    return _doubted_at_edges(findings, lora, full, checked)


def _doubted_at_edges(findings: Findings, lora: str, full: str, checked: Checked) -> Checked:
    """Of "LoRA less": undecided where an arm might do more beyond its sweep, in doubt of it."""
    if checked.status is Status.UNTESTED:
        return checked
    first, second = (findings.grids[method] for method in (lora, full))
    # Of the length that both have, as learning is compared; of each its own without one.
    shared = max({*first.lengths} & {*second.lengths}, default=None)
    for method, grid, status in (
        (lora, first, Status.REPRODUCED),
        (full, second, Status.CONTRADICTED),
    ):
        if best.is_at_edge(grid, shared or grid.longest):
            checked = doubted(checked, status, f"{method}'s best rate is the edge of its sweep")
    return checked


def forgets_less_at_best(findings: Findings) -> Checked:
    """As the paper compares: each at its own best rate, whatever it learned there."""
    checks = [
        _doubted_at_edges(findings, *pair, checked)
        for pair, checked in zip(
            pairs(findings), _of_answers(findings, BEST_RATE, Verdict.LESS), strict=True
        )
    ]
    return together(checks, NO_CONTRAST)


def forgets_less_at_equal_learning(findings: Findings) -> Checked:
    """The study's primary contrast."""
    return together(_of_answers(findings, PRIMARY, Verdict.LESS), NO_CONTRAST)


def is_the_learning_rate(findings: Findings) -> Checked:
    """A gap at the best rates that is gone at equal learning is the learning rate's."""
    return together([_gap_closes(findings, *pair) for pair in pairs(findings)], NO_CONTRAST)


def _gap_closes(findings: Findings, lora: str, full: str) -> Checked:
    gap = _decision(findings, lora, full, BEST_RATE)
    equal = _decision(findings, lora, full, PRIMARY)
    if gap is None or gap.verdict is not Verdict.LESS:
        return untested(f"{lora} does not forget less than {full} at the best rates: no gap")
    if equal is None:
        return untested(f"{lora} and {full} cannot be compared at equal learning")
    label = f"{lora} – {full} at equal learning:"
    # Where full finetuning forgets less once it learns as little, the gap has even turned.
    claimed = Verdict.MORE if equal.verdict is Verdict.MORE else Verdict.EQUIVALENT
    return of_primary(equal, claimed, label)


def is_tenfold(findings: Findings) -> Checked:
    """The ratio's interval holds 10 and not 1."""
    return together([_is_tenfold(findings, *pair) for pair in pairs(findings)], NO_CONTRAST)


def _is_tenfold(findings: Findings, lora: str, full: str) -> Checked:
    ratio = rate_ratio(lora, full, findings.grids)
    if ratio.log10 is None:
        return Checked(Status.UNDECIDED, ratio.reason)
    low, high = ratio.log10.interval()
    evidence = f"{lora} : {full} = {ratio}"
    if np.isnan(low) or low <= 0 < TENFOLD <= high:
        return Checked(
            Status.UNDECIDED,
            f"{evidence}: 1 and 10 cannot be told apart",
            ratio.log10.p_value(),
        )
    if low <= TENFOLD <= high:
        return Checked(Status.REPRODUCED, evidence, ratio.log10.p_value())
    return Checked(Status.CONTRADICTED, evidence, ratio.log10.p_value(TENFOLD))


def grows_with_rate(kind: str, findings: Findings) -> Checked:
    """Forgetting's slope over the log of the learning rate, of a kind's arms.

    Of those that are compared with the other kind; controls of a study are not.
    """
    compared = {method for pair in pairs(findings) for method in pair}
    checks = [
        _grows(findings, method, findings.grids[method])
        for method in findings.grids
        if method in compared and findings.traits[method].kind == kind
    ]
    return together(checks, NO_CONTRAST)


def _grows(findings: Findings, method: str, grid: Grid) -> Checked:
    cells = grid.of_length(grid.longest)
    if len(cells) < 2:
        return untested(f"{method} has one learning rate")
    slope = best.slope(np.log10(grid.rates[cells]), grid.arm.y.values[:, cells])
    effect = over_seeds_and_items(Part(slope, grid.arm.y.clusters))
    decision = decide(effect, findings.question.margin)
    return of_decision(decision, Verdict.MORE, f"{method}: per decade of the rate")


def _of_answers(findings: Findings, equal: str, claimed: Verdict) -> list[Checked]:
    checks = []
    for lora, full in pairs(findings):
        decision = _decision(findings, lora, full, equal)
        if decision is None:
            answer = _answer(findings, lora, full, equal)
            checks.append(untested(answer.reason if answer else f"no contrast at equal {equal}"))
            continue
        rule = of_primary if equal == PRIMARY else of_decision
        checks.append(rule(decision, claimed, f"{lora} – {full}:"))
    return checks


def _decision(findings: Findings, lora: str, full: str, equal: str) -> Decision | None:
    """LoRA's against full finetuning, whichever came first in the study."""
    answer = _answer(findings, lora, full, equal)
    if answer is None or answer.decision is None:
        return None
    return answer.decision if answer.first == lora else reversed_decision(answer.decision)


def _answer(findings: Findings, lora: str, full: str, equal: str) -> Answer | None:
    for answer in findings.answers:
        if answer.equal == equal and {answer.first, answer.second} == {lora, full}:
            return answer
    return None
