"""The contrasts of a study: forgetting of two methods, compared when something else is equal.

What is held equal is an entry of EQUAL, and a new one is a function and a line there. A question
that the runs cannot answer is answered by the reason.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.statistics import resampling
from lfl_jax.statistics.effects import LEVEL, Effect, with_least_error
from lfl_jax.statistics.frontier import Arm, Axis, Gap, gap, log_means
from lfl_jax.statistics.mediation import Mediation, mediate
from lfl_jax.statistics.multiplicity import holm
from lfl_jax.statistics.resampling import Means
from lfl_jax.statistics.verdicts import Decision, Verdict, decide
from lfl_jax.studies.arms import Grid, Measures
from lfl_jax.studies.cells import CHANGES, consists_of

# More would need a correction that nobody declares beforehand.
MOST_CONTRASTS = 4

PRIMARY = "learning"
BEST_RATE = "best learning rate"
REGRESSION = "divergence, by regression"


@dataclass(frozen=True)
class Question:
    """What a study asks, declared before its runs.

    margin: the difference in forgetting that nobody would care for, in the measure's unit.
    contrasts: pairs of methods, the first against the second; all pairs when there are none.
    """

    measures: Measures
    margin: float
    contrasts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Difference:
    """A plain difference of two cells."""

    effect: Effect


# All have an `effect`; a gap has the range that it is over, a mediation its shares of variance.
Evidence = Gap | Difference | Mediation


@dataclass(frozen=True)
class Answer:
    """A contrast with `equal` held equal; without a decision, `reason` says why.

    p_holm: of a secondary contrast, corrected for all of them.
    """

    first: str
    second: str
    equal: str
    decision: Decision | None = None
    evidence: Evidence | None = None
    reason: str = ""
    p_holm: float | None = None

    @property
    def is_at_best(self) -> bool:
        """Whether each method is at a rate of its own, and nothing is equal."""
        return self.equal == BEST_RATE


def answer(question: Question, by_method: Mapping[str, Grid]) -> list[Answer]:
    """Every contrast at everything that can be held equal, the primary ones first.

    UserError for too many contrasts, or a method that there is not.
    """
    contrasts = _contrasts(question, list(by_method))
    answers = []
    for equal in EQUAL:
        if equal in NEED_DIVERGENCE and question.measures.divergence is None:
            continue
        for first, second in contrasts:
            answers.append(ask(equal, by_method[first], by_method[second], question.margin))
    return _with_holm(answers)


def _contrasts(question: Question, methods: list[str]) -> list[tuple[str, str]]:
    pairs = list(question.contrasts) or list(itertools.combinations(methods, 2))
    if len(pairs) > MOST_CONTRASTS:
        raise UserError(
            f"{len(pairs)} contrasts of {len(methods)} methods; declare at most {MOST_CONTRASTS}"
            " with --contrast=FIRST,SECOND"
        )
    unknown = [name for name in itertools.chain(*pairs) if name not in methods]
    if unknown:
        raise UserError(f"contrast of {unknown[0]!r}: there are {', '.join(methods)}")
    return pairs


def ask(equal: str, first: Grid, second: Grid, margin: float) -> Answer:
    """One contrast with one of EQUAL held equal, uncorrected."""
    asked = Answer(first.arm.name, second.arm.name, equal)
    # A question that cannot be answered is one of a study's findings, not its end.
    try:
        evidence = EQUAL[equal](first, second)
    except UserError as error:
        return dataclasses.replace(asked, reason=str(error))
    answers = first.arm.y, second.arm.y
    if all(consists_of(axis.values, CHANGES) for axis in answers):
        # Saturated arms agree on every item, which a few items do not prove of all others.
        effect = with_least_error(evidence.effect, first.arm.y.part(0))
        evidence = dataclasses.replace(evidence, effect=effect)
    decision = decide(evidence.effect, margin)
    return dataclasses.replace(asked, decision=decision, evidence=evidence, reason=decision.reason)


def _at_equal_learning(first: Grid, second: Grid) -> Gap:
    """Between the frontiers, over the learning that both reach."""
    return gap(first.arm, second.arm)


def _at_best_rate(first: Grid, second: Grid) -> Difference:
    """Of each at the cell where it learned most, a choice that is repeated for the error.

    Chosen by learning, whose items are others than those that forgetting is measured on.
    """
    axes = [[first.arm.x, second.arm.x], [first.arm.y, second.arm.y]]
    return Difference(resampling.effect(_where_most_learned, axes))


def _where_most_learned(means: Means) -> Float[np.ndarray, " B"]:
    """first's forgetting less second's, by draw."""
    learned, forgotten = means
    of_first, of_second = (
        np.take_along_axis(y, np.argmax(x, axis=1)[:, None], axis=1)[:, 0]
        for x, y in zip(learned, forgotten, strict=True)
    )
    return of_first - of_second


def _at_equal_divergence(first: Grid, second: Grid) -> Gap:
    """Where both went equally far from the base, over all cells."""
    arms = [Arm(g.arm.name, log_means(g.divergence), g.arm.y) for g in (first, second)]
    return gap(*arms, matched="divergence")


def _beyond_divergence(first: Grid, second: Grid) -> Mediation:
    """The method's term of a regression that has the divergence in it."""
    far = _runs_of(first.divergence, second.divergence)
    forgotten = _runs_of(first.arm.y, second.arm.y)
    return mediate(far, forgotten, np.arange(far.values.shape[1]) < len(first.cells))


def _runs_of(first: Axis, second: Axis) -> Axis:
    """The cells of both, which were scored on the same items."""
    return Axis(np.concatenate([first.values, second.values], axis=1), first.clusters)


Way = Callable[[Grid, Grid], Evidence]
EQUAL: dict[str, Way] = {
    PRIMARY: _at_equal_learning,
    BEST_RATE: _at_best_rate,
    "divergence": _at_equal_divergence,
    REGRESSION: _beyond_divergence,
}
NEED_DIVERGENCE = ("divergence", REGRESSION)


def _with_holm(answers: Sequence[Answer]) -> list[Answer]:
    """Primary contrasts are few and declared; the others are corrected for their number."""
    secondary = {
        index: answer.decision.p_difference
        for index, answer in enumerate(answers)
        # A single seed has no p-value.
        if answer.equal != PRIMARY and answer.decision is not None and answer.decision.effect.df > 0
    }
    adjusted = holm(secondary)
    return [
        _corrected(answer, adjusted[index], len(adjusted)) if index in adjusted else answer
        for index, answer in enumerate(answers)
    ]


def _corrected(answer: Answer, p: float, questions: int) -> Answer:
    """A difference that the correction leaves open is undecided."""
    answer = dataclasses.replace(answer, p_holm=p)
    if answer.decision.verdict not in (Verdict.MORE, Verdict.LESS) or p <= 1 - LEVEL:
        return answer
    reason = f"one of {questions} secondary contrasts, for all of which p is {p:.2g} (Holm)"
    decision = dataclasses.replace(answer.decision, verdict=Verdict.UNDECIDED, reason=reason)
    return dataclasses.replace(answer, decision=decision, reason=reason)
