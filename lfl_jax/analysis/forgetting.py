"""The forgetting of a model, from the same items before and after finetuning.

The score of "LoRA Learns Less and Forgets Less" (arXiv 2405.09673, section 3.3) is the plain mean
of the accuracies on HellaSwag, ARC-Challenge and WinoGrande; higher is less forgotten. An accuracy
moves little near chance, and hides items that flip in both directions. So prediction flips,
continuous scores of the right choice and general text are reported as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lfl_jax.errors import UserError
from lfl_jax.evals import stats
from lfl_jax.evals.metrics import Measured, Metric
from lfl_jax.evals.stats import Estimate

# {task: its accuracy}: as lm-evaluation-harness defines the tasks, and as the paper's Gauntlet.
HARNESS = {"hellaswag": "acc_norm", "arc_challenge": "acc_norm", "winogrande": "acc"}
GAUNTLET = {
    "hellaswag_gauntlet": "acc",
    "arc_challenge_gauntlet": "acc",
    "winogrande_gauntlet": "acc",
}
MEAN_ACCURACY = Metric("acc", "acc", "acc", section="forgetting")
Results = Mapping[str, Mapping[str, Measured]]  # {task: {metric: measured}}


@dataclass(frozen=True)
class Score:
    """A plain mean of the accuracies of several tasks, {task: its metric}."""

    name: str
    label: str
    accuracies: Mapping[str, str]

    def is_measured(self, results: Results) -> bool:
        """Whether all of its tasks were evaluated."""
        return all(metric in results.get(task, {}) for task, metric in self.accuracies.items())


SCORES = (
    Score("mean_of_three", "mean of three", HARNESS),
    Score("gauntlet_mean_of_three", "Gauntlet mean of three", GAUNTLET),
)


@dataclass(frozen=True)
class Flips:
    """Prediction flips: items that became incorrect (`lost`) or correct (`gained`).

    by_chance: how many of each to expect where both answers are guesses, whatever was learned:
    n (1 - a_before) (1 - a_after) / (k - 1) for accuracies a and k choices (arXiv 2510.17776). Two
    random answers to questions with two choices differ half of the time.
    """

    lost: int
    gained: int
    by_chance: float = 0.0

    def __add__(self, other: "Flips") -> "Flips":
        return Flips(
            self.lost + other.lost, self.gained + other.gained, self.by_chance + other.by_chance
        )

    @property
    def lost_beyond_chance(self) -> float:
        """Items forgotten: `lost` less those of chance, at least 0."""
        return max(self.lost - self.by_chance, 0.0)

    @property
    def gained_beyond_chance(self) -> float:
        """Items learned, likewise."""
        return max(self.gained - self.by_chance, 0.0)


@dataclass(frozen=True)
class Forgetting:
    """A score before and after finetuning, its change paired by item, and the score of guessing."""

    before: Estimate
    after: Estimate
    change: Estimate
    flips: Flips
    chance: float


def measure(before: Results, after: Results, score: Score = SCORES[0]) -> Forgetting:
    """A score of two evaluations; UserError where a task is missing, or has other items."""
    missing = [task for task in score.accuracies if task not in before or task not in after]
    if missing:
        raise UserError(
            f"{score.label} needs {', '.join(score.accuracies)}; not evaluated:"
            f" {', '.join(missing)}"
        )
    # The tasks have no item in common: their estimates, and their changes, are independent.
    first = [before[task][metric] for task, metric in score.accuracies.items()]
    last = [after[task][metric] for task, metric in score.accuracies.items()]
    changes, all_flips = [], Flips(0, 0)
    for one, other in zip(first, last, strict=True):
        changes.append(one.metric.difference(one.column, other.column))
        all_flips += flips(one, other)
    return Forgetting(
        before=_mean_of(first),
        after=_mean_of(last),
        change=stats.plain_mean(changes),
        flips=all_flips,
        chance=sum(measured.chance or 0.0 for measured in first) / len(first),
    )


def _mean_of(accuracies: Sequence[Measured]) -> Estimate:
    return stats.plain_mean([measured.estimate for measured in accuracies])


def flips(before: Measured, after: Measured) -> Flips:
    """The prediction flips of an accuracy, 1 or 0 for each item; UserError for other items."""
    first, last = before.column.ordered_as(after.column).values(), after.column.values()
    # By item id: the two evaluations may have recorded them in different orders.
    changes = [y - x for x, y in zip(first, last, strict=True)]
    lost = sum(change < 0 for change in changes)
    gained = sum(change > 0 for change in changes)

    # Guessing scores 1/k, so chance / (1 - chance) is 1 / (k - 1).
    chance = before.chance or 0.0
    odds = chance / (1 - chance) if chance < 1 else 0.0
    errors = (1 - before.estimate.mean) * (1 - after.estimate.mean)
    return Flips(lost, gained, by_chance=len(changes) * errors * odds)
