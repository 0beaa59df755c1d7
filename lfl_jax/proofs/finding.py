"""What a check found: proved, failed, or not applicable, with the measured value and its bound."""

import dataclasses

PROVED, FAILED, NOT_APPLICABLE = "proved", "failed", "not applicable"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check. reason: why it failed or does not apply, or what else to know."""

    outcome: str
    measured: str = ""
    bound: str = ""
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether what was to be proved does not hold."""
        return self.outcome == FAILED


def judged(holds: bool, measured: str, bound: str, reason: str = "") -> Finding:
    """Proved where it holds, else failed."""
    return Finding(PROVED if holds else FAILED, measured, bound, reason)


def at_most(measured: float | int, bound: float | int, unit: str, reason: str = "") -> Finding:
    """Proved where the measured number is at most the bound; one that is no number fails."""
    # NaN compares false with everything.
    return judged(measured <= bound, f"{measured:.2g} {unit}", f"{bound:.2g} {unit}", reason)


def not_applicable(reason: str) -> Finding:
    """Of a check that says nothing about this config."""
    return Finding(NOT_APPLICABLE, reason=reason)
