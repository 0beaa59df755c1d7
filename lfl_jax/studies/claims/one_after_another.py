"""Claims about tasks that are learned one after another, checked on a study with a sequence."""

from typing import TYPE_CHECKING

from lfl_jax.statistics.verdicts import Decision, Verdict, decide
from lfl_jax.studies.answers import BEST_RATE
from lfl_jax.studies.claims.claim import (
    Checked,
    of_decision,
    reversed_decision,
    together,
    untested,
)
from lfl_jax.studies.claims.lora_and_full import NO_CONTRAST, pairs
from lfl_jax.studies.findings import Findings

if TYPE_CHECKING:
    # What makes them reads rules of this package.
    from lfl_jax.studies.continual import Transfers

ONE_TASK = "the study trains on one task"


def forgets_less(equal: str, findings: Findings) -> Checked:
    """LoRA's backward transfer is above full finetuning's. equal: of `answers.EQUAL`."""
    transfers = findings.transfers
    if transfers is None:
        return untested(ONE_TASK)
    checks = [_forgets_less(transfers, equal, *pair) for pair in pairs(findings)]
    return together(checks, NO_CONTRAST)


def _forgets_less(transfers: "Transfers", equal: str, lora: str, full: str) -> Checked:
    for contrast in transfers.contrasts:
        if contrast.equal == equal and {contrast.first, contrast.second} == {lora, full}:
            if contrast.decision is None:
                return untested(contrast.reason)
            where = "at the best rates" if equal == BEST_RATE else f"at equal {equal}"
            label = f"{lora} – {full}, backward transfer {where}:"
            decision = _of_lora(contrast.decision, contrast.first == lora)
            return of_decision(decision, Verdict.MORE, label)
    return untested(f"no contrast of {lora} and {full} at equal {equal}")


def _of_lora(decision: Decision, is_first: bool) -> Decision:
    return decision if is_first else reversed_decision(decision)


def hardly_forgets(findings: Findings) -> Checked:
    """LoRA's backward transfer at its best rate is none, to within the margin."""
    transfers = findings.transfers
    if transfers is None:
        return untested(ONE_TASK)
    # One check for each, however many it is compared with.
    loras = dict.fromkeys(lora for lora, _ in pairs(findings))
    return together([_hardly_forgets(findings, lora) for lora in loras], NO_CONTRAST)


def _hardly_forgets(findings: Findings, lora: str) -> Checked:
    transfers = findings.transfers
    if lora in transfers.missing:
        return untested(transfers.missing[lora])
    one = transfers.by_method[lora]
    if one.reason:
        return untested(one.reason)
    decision = decide(one.at_best("backward"), findings.question.margin)
    return of_decision(decision, Verdict.EQUIVALENT, f"{lora}: backward transfer")
