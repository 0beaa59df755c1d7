"""A published claim, and what a study says of it: by a rule, never by judgement."""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from lfl_jax.statistics.effects import in_words
from lfl_jax.statistics.verdicts import Decision, Verdict

# What a rule reads: a study's findings, or what a command measured of its runs.
Evidence = TypeVar("Evidence")


class Status(enum.StrEnum):
    """Of a claim in a study."""

    REPRODUCED = "reproduced here"
    CONTRADICTED = "not reproduced"
    UNDECIDED = "undecided"
    UNTESTED = "not tested"


@dataclass(frozen=True)
class Checked:
    """A status and the numbers it rests on.

    p: of the test that decided, or did not, where it was no primary contrast of the study; such
    tests are corrected for their number.
    """

    status: Status
    evidence: str
    p: float | None = None


@dataclass(frozen=True)
class Claim(Generic[Evidence]):
    """text: as published, in a sentence. source: where. check: the rule."""

    text: str
    source: str
    check: Callable[[Evidence], Checked]


def untested(reason: str) -> Checked:
    """Of a study without the runs or the measure."""
    return Checked(Status.UNTESTED, reason)


def of_decision(decision: Decision, claimed: Verdict, label: str) -> Checked:
    """A decision against what was claimed; every other verdict that is one contradicts it."""
    numbers = in_words(decision.effect.mean, decision.effect.interval(), "+.3g")
    evidence = f"{label} {numbers}, margin {decision.margin:.2g}"
    if decision.verdict is Verdict.UNDECIDED:
        finds = "; ".join(filter(None, (evidence, decision.finds)))
        # What decided nothing was asked as well: it counts among the questions.
        return Checked(Status.UNDECIDED, finds, decision.p_difference)
    status = Status.REPRODUCED if decision.verdict is claimed else Status.CONTRADICTED
    equivalent = decision.verdict is Verdict.EQUIVALENT
    p = decision.p_equivalence if equivalent else decision.p_difference
    return Checked(status, evidence, p)


def of_primary(decision: Decision, claimed: Verdict, label: str) -> Checked:
    """Of a primary contrast: declared before the runs and few, so that nothing corrects it."""
    return dataclasses.replace(of_decision(decision, claimed, label), p=None)


def doubted(checked: Checked, when: Status, reason: str) -> Checked:
    """Undecided, for a reason, where the status is the one that the reason puts in doubt."""
    if checked.status is not when:
        return checked
    evidence = f"{checked.evidence}; {reason}"
    return dataclasses.replace(checked, status=Status.UNDECIDED, evidence=evidence)


def together(checks: Sequence[Checked], nothing: str) -> Checked:
    """One status for several contrasts of the same claim: theirs, where they agree.

    nothing: why it was not tested, where there are none.
    """
    tested = [checked for checked in checks if checked.status is not Status.UNTESTED]
    if not tested:
        return checks[0] if checks else untested(nothing)
    statuses = {checked.status for checked in tested}
    evidence = "; ".join(checked.evidence for checked in tested)
    p_values = [checked.p for checked in tested if checked.p is not None]
    # All of them have to hold: the weakest decides.
    weakest = max(p_values, default=None)
    if len(statuses) > 1:
        return Checked(Status.UNDECIDED, f"the contrasts do not all say so: {evidence}", weakest)
    return Checked(statuses.pop(), evidence, weakest)


def reversed_decision(decision: Decision) -> Decision:
    """Of the second arm against the first."""
    swapped = {Verdict.MORE: Verdict.LESS, Verdict.LESS: Verdict.MORE}
    effect = dataclasses.replace(decision.effect, mean=-decision.effect.mean)
    verdict = swapped.get(decision.verdict, decision.verdict)
    return dataclasses.replace(decision, effect=effect, verdict=verdict)
