"""What a study says: each contrast's verdict, each method's best learning rate, the noise.

Nothing here is a number without its error, and a question that the runs cannot answer is answered
by the reason.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lfl_jax.errors import UserError
from lfl_jax.statistics import learning_rates, noise
from lfl_jax.statistics.effects import Part, over_seeds_and_items
from lfl_jax.statistics.frontier import Axis, Gap, gap
from lfl_jax.statistics.learning_rates import Optimum
from lfl_jax.statistics.multiplicity import holm
from lfl_jax.statistics.verdicts import Decision, decide
from lfl_jax.studies.arms import Grid, Measure, grids
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Run

# More would need a correction that nobody declares beforehand.
MOST_CONTRASTS = 4

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """What a study asks, declared before its runs.

    margin: the difference in forgetting that nobody would care for, in the measure's unit.
    contrasts: pairs of methods, the first against the second; all pairs when there are none.
    """

    learning: Measure
    forgetting: Measure
    margin: float
    contrasts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answer:
    """A contrast at one matching; decision and gap are None where `reason` says why."""

    first: str
    second: str
    matched: str
    decision: Decision | None
    gap: Gap | None
    reason: str = ""
    p_holm: float | None = None


@dataclass(frozen=True)
class BestRate:
    """A method's best learning rate by learning, at its longest length; or why it is not known."""

    method: str
    optimum: Optimum | None
    reason: str = ""


@dataclass(frozen=True)
class Findings:
    """All that a report shows.

    noise: {method: (of learning, of forgetting)}, one run's standard deviation over seeds.
    """

    question: Question
    seeds: tuple[int, ...]
    grids: Mapping[str, Grid]
    answers: tuple[Answer, ...]
    best_rates: tuple[BestRate, ...]
    noise: Mapping[str, tuple[float, float]]

    @property
    def left_out(self) -> list[str]:
        """Cells that do not count, with the reason of each."""
        return list(itertools.chain(*(grid.left_out for grid in self.grids.values())))


def find(base: Scores, runs: Sequence[Run], question: Question) -> Findings:
    """Answer a study's question. UserError for runs that cannot be compared at all."""
    by_method = grids(base, runs, question.learning, question.forgetting)
    contrasts = _contrasts(question, list(by_method))
    # The primary contrasts first: the page shows answers in this order.
    answers = [_at_matched_learning(by_method, pair, question.margin) for pair in contrasts]
    answers += [_at_best_rate(by_method, pair, question.margin) for pair in contrasts]

    # All grids have the same seeds, so that any of them tells.
    seeds = next(iter(by_method.values())).seeds
    best_rates = tuple(_best_rate(method, grid) for method, grid in by_method.items())
    floors = {method: _noise(grid) for method, grid in by_method.items()}
    return Findings(question, seeds, by_method, tuple(_with_holm(answers)), best_rates, floors)


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


def _at_matched_learning(
    by_method: Mapping[str, Grid], pair: tuple[str, str], margin: float
) -> Answer:
    first, second = (by_method[method].arm for method in pair)
    # A question that cannot be answered is one of a study's findings, not its end.
    try:
        between = gap(first, second)
    except UserError as error:
        return Answer(*pair, "learning", None, None, str(error))
    decision = decide(between.effect, margin)
    return Answer(*pair, "learning", decision, between, decision.reason)


def _at_best_rate(by_method: Mapping[str, Grid], pair: tuple[str, str], margin: float) -> Answer:
    """Forgetting of each at the cell where it learned most.

    Chosen by learning, whose items are others than those that forgetting is measured on.
    """
    arms = [by_method[method].arm for method in pair]
    first, second = (arm.y.part(int(np.argmax(arm.x.means()))) for arm in arms)
    difference = Part(first.values - second.values, first.clusters)
    decision = decide(over_seeds_and_items(difference), margin)
    return Answer(*pair, "best learning rate", decision, None, decision.reason)


def _with_holm(answers: Sequence[Answer]) -> list[Answer]:
    """Primary contrasts (at matched learning) are few and declared; the others are corrected."""
    secondary = {
        index: answer.decision.p_difference
        for index, answer in enumerate(answers)
        if answer.matched != "learning" and answer.decision is not None
    }
    adjusted = holm(secondary)
    return [
        Answer(**{**vars(answer), "p_holm": adjusted.get(index)})
        for index, answer in enumerate(answers)
    ]


def _best_rate(method: str, grid: Grid) -> BestRate:
    # Optima move with the length of a run: those of several lengths are not mixed.
    longest = max(step for _, step in grid.cells)
    chosen = [index for index, (_, step) in enumerate(grid.cells) if step == longest]
    rates = np.array([grid.cells[index][0] for index in chosen])
    scores = grid.arm.x.values[:, chosen].mean(axis=2)
    try:
        return BestRate(method, learning_rates.optimum(method, rates, scores))
    except UserError as error:
        return BestRate(method, None, str(error))


def _noise(grid: Grid) -> tuple[float, float]:
    return _floor(grid.arm.x), _floor(grid.arm.y)


def _floor(axis: Axis) -> float:
    means = axis.values.mean(axis=2)
    return noise.floor(means) if len(means) > 1 else float("nan")
