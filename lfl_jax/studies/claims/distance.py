"""Claims that the distance from the base explains forgetting, whatever the method."""

import numpy as np
from jaxtyping import Float

from lfl_jax.statistics.effects import in_words, over_seeds
from lfl_jax.statistics.verdicts import Verdict
from lfl_jax.studies import predictors
from lfl_jax.studies.answers import REGRESSION, Answer
from lfl_jax.studies.claims.claim import Checked, Status, of_decision, together, untested
from lfl_jax.studies.findings import Findings

NOT_MEASURED = "the study does not measure the divergence from the base"


def explains_forgetting(findings: Findings) -> Checked:
    """With the divergence in the regression, no method has a term beyond the margin."""
    answers = [answer for answer in findings.answers if answer.equal == REGRESSION]
    return together([_by_regression(answer) for answer in answers], NOT_MEASURED)


def _by_regression(answer: Answer) -> Checked:
    if answer.decision is None:
        return untested(answer.reason)
    label = f"{answer.first} – {answer.second} with the divergence in the regression:"
    checked = of_decision(answer.decision, Verdict.EQUIVALENT, label)
    share = f"the divergence alone explains {answer.evidence.r2_divergence:.0%} of the variance"
    return Checked(checked.status, f"{checked.evidence}; {share}", checked.p)


def explains_more_than_others(findings: Findings) -> Checked:
    """R^2 of the log divergence is above that of every other predictor, seed by seed."""
    explained = findings.predictors
    divergence = explained.get(predictors.DIVERGENCE)
    if divergence is None:
        return untested(NOT_MEASURED)
    others = {name: one for name, one in explained.items() if one is not divergence}
    return together(
        [more_than(divergence.by_seed - other.by_seed, name) for name, other in others.items()],
        "the study has nothing to compare it with",
    )


def more_than(differences: Float[np.ndarray, " S"], name: str) -> Checked:
    """Whether R^2 of the divergence is above another's, given their differences by seed."""
    effect = over_seeds(differences)
    low, high = effect.interval()
    evidence = f"R² less that of the {name} {in_words(effect.mean, effect.interval(), '+.2f')}"
    status = Status.UNDECIDED
    if low > 0:
        status = Status.REPRODUCED
    elif high < 0:
        status = Status.CONTRADICTED
    return Checked(status, evidence, effect.p_value())
