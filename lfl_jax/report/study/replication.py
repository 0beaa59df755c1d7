"""The table of a study's replication: the same question put to each half of its seeds."""

from collections.abc import Mapping, Sequence

from lfl_jax.report.study.tables import Table
from lfl_jax.studies.answers import Answer, Question
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.replication import replicate

Cell = str | float | None


def tables(question: Question, by_method: Mapping[str, Grid]) -> list[Table]:
    """One with a row per contrast; none for a study with too few seeds for two halves."""
    replications = replicate(question, by_method)
    if not replications:
        return []
    rows = []
    for replication in replications:
        first, second = replication.answers
        contrast = (first.first, first.second, first.equal)
        rows.append((*contrast, *_half(first), *_half(second), str(replication.agreement)))
    # All contrasts have the same halves, so that any of them tells.
    halves = [_seeds(seeds) for seeds in replications[0].seeds]
    numbers = ("effect", "95 % low", "95 % high")
    table = Table(
        "replication",
        f"The same questions by seeds {halves[0]} alone, and by seeds {halves[1]} alone. Undecided:"
        " at least one half is.",
        ("first", "second", "equal", "first half", *numbers, "second half", *numbers, "the halves"),
        tuple(rows),
    )
    return [table]


def _half(answer: Answer) -> tuple[Cell, ...]:
    # The reason why there is none stands in the table of verdicts.
    if answer.decision is None:
        return ("not answered", None, None, None)
    effect = answer.decision.effect
    return (str(answer.decision.verdict), effect.mean, *effect.interval())


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
