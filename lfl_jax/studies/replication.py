"""The same question put to each half of a study's seeds: do they say the same?

The halves share base and items but no seed: what differs between them is what another set of seeds
would have changed.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lfl_jax.statistics.frontier import Arm, Axis
from lfl_jax.statistics.verdicts import Verdict
from lfl_jax.studies.answers import Answer, Question, answer
from lfl_jax.studies.arms import Grid

# Of each half: with fewer nearly everything is undecided, and no agreement says anything.
FEWEST_SEEDS = 5


class Agreement(enum.StrEnum):
    """Of two verdicts on one question; undecided where either is, or has no answer."""

    AGREE = "agree"
    UNDECIDED = "undecided"
    CONTRADICT = "contradict"


@dataclass(frozen=True)
class Replication:
    """A contrast's answers by the seeds of the first and of the second half."""

    answers: tuple[Answer, Answer]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def agreement(self) -> Agreement:
        """Whether both halves decide, and decide alike."""
        decided = [one.decision.verdict for one in self.answers if one.decision is not None]
        if len(decided) < len(self.answers) or Verdict.UNDECIDED in decided:
            return Agreement.UNDECIDED
        return Agreement.AGREE if len(set(decided)) == 1 else Agreement.CONTRADICT


def replicate(
    question: Question, by_method: Mapping[str, Grid], fewest: int = FEWEST_SEEDS
) -> list[Replication]:
    """Every contrast by halves of the seeds, in their order; none for too few seeds for two halves.

    Of an odd number of seeds the second half has one more.
    """
    # Halves by number and not at random: nobody can draw until they agree.
    seeds = next(iter(by_method.values())).seeds
    middle = len(seeds) // 2
    if middle < fewest:
        return []
    halves = range(middle), range(middle, len(seeds))
    answers = [_answers(question, by_method, half) for half in halves]
    of_halves = seeds[:middle], seeds[middle:]
    return [Replication(pair, of_halves) for pair in zip(*answers, strict=True)]


def of_seeds(grid: Grid, indices: Sequence[int]) -> Grid:
    """The grid with some of its seeds, by their indices; every cell has all of them."""
    chosen = list(indices)

    def only(axis: Axis) -> Axis:
        return dataclasses.replace(axis, values=axis.values[chosen])

    arm = Arm(grid.arm.name, only(grid.arm.x), only(grid.arm.y))
    divergence = grid.divergence and only(grid.divergence)
    seeds = tuple(grid.seeds[index] for index in chosen)
    return dataclasses.replace(grid, arm=arm, divergence=divergence, seeds=seeds)


def _answers(
    question: Question, by_method: Mapping[str, Grid], indices: Sequence[int]
) -> list[Answer]:
    chosen = {name: of_seeds(grid, indices) for name, grid in by_method.items()}
    return answer(question, chosen)
