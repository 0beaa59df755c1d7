"""What a model forgot, from the same items before and after finetuning.

The score of "LoRA Learns Less and Forgets Less" (arXiv 2405.09673, section 3.3) is the plain mean
of the accuracies on HellaSwag, ARC-Challenge and WinoGrande; higher is less forgotten. An accuracy
hides items whose prediction flipped and moves little near chance, so prediction flips, continuous
scores of the right choice and general text stand beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lfl_jax.errors import UserError
from lfl_jax.evals import stats
from lfl_jax.evals.metrics import Measured
from lfl_jax.evals.stats import Estimate

# The three tasks and the accuracy of each: as the harness defines them, and as the paper's Gauntlet
# does.
HARNESS = {"hellaswag": "acc_norm", "arc_challenge": "acc_norm", "winogrande": "acc"}
GAUNTLET = {
    "hellaswag_gauntlet": "acc",
    "arc_challenge_gauntlet": "acc",
    "winogrande_gauntlet": "acc",
}
Results = Mapping[str, Mapping[str, Measured]]  # {task: {metric: measured}}


@dataclass(frozen=True)
class Score:
    """A plain mean of the accuracies of several tasks: {task: its metric}."""

    name: str
    label: str
    accuracies: Mapping[str, str]

    def is_measured(self, results: Results) -> bool:
        """Whether all of its tasks were evaluated."""
        return all(
            task in results and metric in results[task] for task, metric in self.accuracies.items()
        )


SCORES = (
    Score("mean_of_three", "mean of three, acc", HARNESS),
    Score("gauntlet_mean_of_three", "Gauntlet mean of three, acc", GAUNTLET),
)


@dataclass(frozen=True)
class Flips:
    """Prediction flips: items that became incorrect (`lost`), and items that became correct
    (`gained`).

    by_chance: as many of each are expected from items that are guessed both times, whatever was
    learned or forgotten: n (1 - a_before) (1 - a_after) / (k - 1) for accuracies a and k choices
    (arXiv 2510.17776). Two random answers to questions with two choices differ half of the time.
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
        """Items forgotten: `lost` without those of chance, at least 0."""
        return max(self.lost - self.by_chance, 0.0)

    @property
    def gained_beyond_chance(self) -> float:
        """Items learned, likewise."""
        return max(self.gained - self.by_chance, 0.0)


@dataclass(frozen=True)
class Forgetting:
    """The score before, after and their difference, item by item, and what guessing scores
    (`chance`)."""

    before: Estimate
    after: Estimate
    change: Estimate
    flips: Flips
    chance: float


def measure(before: Results, after: Results, score: Score = SCORES[0]) -> Forgetting:
    """A score of two evaluations. Raises UserError when a task is missing, or was run on other
    items."""
    missing = [task for task in score.accuracies if task not in before or task not in after]
    if missing:
        raise UserError(
            f"{score.label} needs {', '.join(score.accuracies)}; not evaluated:"
            f" {', '.join(missing)}"
        )
    pairs = [
        (before[task][metric], after[task][metric]) for task, metric in score.accuracies.items()
    ]
    return Forgetting(
        before=stats.plain_mean([first.estimate for first, _ in pairs]),
        after=stats.plain_mean([last.estimate for _, last in pairs]),
        change=stats.plain_mean(
            [first.metric.difference(first.column, last.column) for first, last in pairs]
        ),
        flips=sum((flips(first, last) for first, last in pairs), Flips(0, 0)),
        chance=sum(first.chance or 0.0 for first, _ in pairs) / len(pairs),
    )


def flips(before: Measured, after: Measured) -> Flips:
    """Items whose value (1 correct, 0 incorrect) changed; UserError when the two do not hold the
    same items."""
    first, last = before.column.ordered_as(after.column).values(), after.column.values()
    changes = [b - a for a, b in zip(first, last, strict=True)]
    chance = before.chance or 0.0
    guessed = chance / (1 - chance) if chance < 1 else 0.0  # 1 / (k - 1)
    errors = (1 - before.estimate.mean) * (1 - after.estimate.mean)
    by_chance = len(changes) * errors * guessed
    lost = sum(change < 0 for change in changes)
    gained = sum(change > 0 for change in changes)
    return Flips(lost, gained, by_chance)
