"""Two models on the same items: what changed, item by item, and whether that decides anything."""

import dataclasses
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lfl_jax.analysis import forgetting
from lfl_jax.analysis.forgetting import Flips
from lfl_jax.errors import UserError
from lfl_jax.evals.metrics import Measured
from lfl_jax.evals.stats import Estimate
from lfl_jax.statistics.multiplicity import holm
from lfl_jax.studies.records.scores import Scores, require_comparable


class Verdict(enum.StrEnum):
    """Of the tuned model against the base."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Row:
    """One metric of one task.

    change: after - before, paired. flips: of a metric that is right or wrong. p: two-sided, of no
    change; p_holm: with the other rows of this comparison that are their task's main metric, None
    for a metric that is not.
    """

    task: str
    metric: str
    before: Estimate
    after: Estimate
    change: Estimate
    flips: Flips | None
    percent: bool
    verdict: Verdict
    p: float
    p_holm: float | None = None


def compare(base: Scores, tuned: Scores, margin: float) -> list[Row]:
    """Every metric that both have, of the tasks that both have, in the base's order.

    margin: a change that nobody would care for, in each metric's unit. UserError where the two
    share no task, or were asked other items.
    """
    tasks = [task for task in base.tasks if task in tuned.tasks]
    if not tasks:
        raise UserError(
            f"{base.name} has {', '.join(base.tasks)} and {tuned.name} has"
            f" {', '.join(tuned.tasks)}: no task in common"
        )
    rows = []
    for task in tasks:
        for name, before in base.tasks[task].items():
            if name in tuned.tasks[task]:
                require_comparable(base, tuned, task, name)
                rows.append(_row(task, before, tuned.tasks[task][name], margin))
    return _adjusted(rows)


def _row(task: str, before: Measured, after: Measured, margin: float) -> Row:
    metric = before.metric
    change = metric.difference(before.column, after.column)
    is_binary = metric.interval == "proportion"
    return Row(
        task,
        metric.name,
        before.estimate,
        after.estimate,
        change,
        forgetting.flips(before, after) if is_binary else None,
        metric.percent,
        _verdict(change, margin, metric.higher_is_better),
        _p_value(change),
    )


def _verdict(change: Estimate, margin: float, higher_is_better: bool) -> Verdict:
    """By the 95 % interval: inside the margin, on one side of zero, or neither."""
    # First: a change inside the margin is none that anybody cares for, even a certain one.
    if -margin < change.low and change.high < margin:
        return Verdict.EQUIVALENT
    if not change.is_decided:
        return Verdict.UNDECIDED
    return Verdict.BETTER if (change.low > 0) == higher_is_better else Verdict.WORSE


def _p_value(change: Estimate) -> float:
    """Of the paired t-test over clusters; 1 where nothing changed."""
    if change.mean == 0:
        return 1.0
    if not change.se > 0:
        return math.nan if change.clusters < 2 else 0.0
    # Imported where it is used: `compare --help` needs no p.
    from scipy.special import stdtr

    return float(2 * stdtr(change.clusters - 1, -abs(change.mean) / change.se))


def _adjusted(rows: Sequence[Row]) -> list[Row]:
    """With Holm's p of every task's main metric; the others say the same in other words."""
    # Dicts keep the first: a task's metrics come with its main one in front.
    main: dict[str, Row] = {}
    for row in rows:
        main.setdefault(row.task, row)
    adjusted = holm({task: row.p for task, row in main.items()})
    return [
        dataclasses.replace(row, p_holm=adjusted[row.task]) if row is main[row.task] else row
        for row in rows
    ]
