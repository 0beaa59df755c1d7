"""What a model forgot, from the records of the same items before and after finetuning.

The score of "LoRA Learns Less and Forgets Less" (arXiv 2405.09673, section 3.3) is the plain mean of the accuracies on
HellaSwag, ARC-Challenge and WinoGrande; higher is less forgotten. An accuracy hides items that changed sides and
moves little near chance, so flips, the log-probability of the right choice and general text stand beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lfl_jax.errors import UserError
from lfl_jax.evals import stats
from lfl_jax.evals.base import Record
from lfl_jax.evals.stats import Estimate

# The three tasks and the accuracy of each: as the harness defines them, and as the paper's Gauntlet does.
HARNESS = {"hellaswag": "acc_norm", "arc_challenge": "acc_norm", "winogrande": "acc"}
GAUNTLET = {"hellaswag_gauntlet": "acc", "arc_challenge_gauntlet": "acc", "winogrande_gauntlet": "acc"}
Records = Mapping[str, Sequence[Record]]


@dataclass(frozen=True)
class Flips:
    """Items `lost` (right before, wrong after) and `gained` (the other way round)."""

    lost: int
    gained: int

    def __add__(self, other: "Flips") -> "Flips":
        return Flips(self.lost + other.lost, self.gained + other.gained)


@dataclass(frozen=True)
class Forgetting:
    """The score before, after and their difference, item by item, and what guessing scores (`chance`).

    at_chance: the tasks that had no headroom to begin with; the whole has none when `stats.near_chance` says so.
    gold_logprob: mean of the three changes of the right choice's log-probability, normalised over the choices.
    source_nll: change of general text's nats per token, None where it was not scored.
    """

    before: Estimate
    after: Estimate
    change: Estimate
    flips: Flips
    gold_logprob: Estimate
    source_nll: Estimate | None
    chance: float
    at_chance: tuple[str, ...]


def measure(before: Records, after: Records, accuracies: Mapping[str, str] = HARNESS) -> Forgetting:
    """Forgetting over {task: records}. Raises UserError when a task is missing, or was run on other items."""
    missing = [task for task in accuracies if task not in before or task not in after]
    if missing:
        raise UserError(f"a forgetting score needs {', '.join(accuracies)}; not evaluated: {', '.join(missing)}")
    pairs = [(before[task], after[task], metric) for task, metric in accuracies.items()]
    text = "source_nll" in before and "source_nll" in after
    return Forgetting(
        before=plain_mean([stats.over(first, metric) for first, _, metric in pairs]),
        after=plain_mean([stats.over(last, metric) for _, last, metric in pairs]),
        change=plain_mean([stats.difference(*pair) for pair in pairs]),
        flips=sum((flips(*pair) for pair in pairs), Flips(0, 0)),
        gold_logprob=plain_mean([stats.difference(first, last, "gold_logprob") for first, last, _ in pairs]),
        source_nll=stats.difference(before["source_nll"], after["source_nll"], "nll", "tokens") if text else None,
        chance=sum(chance(first) for first, _, _ in pairs) / len(pairs),
        at_chance=tuple(task for task, metric in accuracies.items() if at_chance(before[task], metric)),
    )


def plain_mean(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of independent estimates; `n` and `clusters` are their sums."""
    error = math.sqrt(sum(e.se**2 for e in estimates)) / len(estimates)
    mean = sum(e.mean for e in estimates) / len(estimates)
    return Estimate(mean, error, sum(e.n for e in estimates), sum(e.clusters for e in estimates))


def flips(before: Sequence[Record], after: Sequence[Record], metric: str) -> Flips:
    """Items whose `metric` (1 right, 0 wrong) changed; raises UserError when the two do not hold the same items."""
    first = {record["id"]: record[metric] for record in before}
    if first.keys() != {record["id"] for record in after}:
        raise UserError(f"before ({len(before)} records) and after ({len(after)}) are not of the same items")
    changes = [record[metric] - first[record["id"]] for record in after]
    return Flips(lost=sum(c < 0 for c in changes), gained=sum(c > 0 for c in changes))


def at_chance(records: Sequence[Record], metric: str) -> bool:
    """Whether an accuracy has no headroom: within 3 standard errors of guessing among the choices, or below."""
    return stats.near_chance(stats.over(records, metric), chance(records))


def chance(records: Sequence[Record]) -> float:
    """The accuracy of guessing among the choices."""
    return sum(1 / len(record["ll"]) for record in records) / len(records)
