"""Results of a run as rows: learned and forgotten, before -> after, paired over items, with errors."""

import dataclasses
import math
from collections.abc import Mapping, Set
from typing import Any

from lfl_jax.evals import forgetting, stats
from lfl_jax.evals.contamination import Overlapping
from lfl_jax.evals.forgetting import Flips, Score
from lfl_jax.evals.metrics import Measured, Metric, Section
from lfl_jax.evals.run import Result
from lfl_jax.evals.stats import Estimate

Results = Mapping[str, Result]
Measures = dict[str, dict[str, Measured]]  # {task: {metric: measured}}


@dataclasses.dataclass(frozen=True)
class Row:
    """A metric of a task with its numbers; None where no item defines it, or the task was not evaluated.

    label: task_label and the metric's, or an indented group. change: paired over items. better: None where 2 standard
    errors cover no change. flips: of an accuracy that may be forgotten. clean: the row once more over the items that
    the training source does not contain, None where that are all or none.
    """

    task: str
    metric: str
    section: Section
    label: str
    task_label: str
    items: int
    before: Estimate | None
    after: Estimate | None
    change: Estimate | None
    better: bool | None
    percent: bool
    in_table: bool
    note: str = ""
    flips: Flips | None = None
    clean: "Row | None" = None


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is said of the two evaluations of a run."""

    rows: list[Row]

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat dict per task, metric and variant (before, after, change), for pandas.DataFrame."""
        return [flat for row in self.rows for flat in _flat(row)]


def report(before: Results, after: Results, overlapping: Overlapping | None = None) -> Report:
    """The report of a base (`before`) and what was trained on it (`after`).

    overlapping: what the training source contains, from `contamination.read`.
    """
    labels = {task: result.label for task, result in (*before.items(), *after.items())}
    first, last = _measures(before), _measures(after)
    rows = _rows(first, last, labels)
    if overlapping and any(overlapping.values()):
        first, last = _without(first, overlapping), _without(last, overlapping)
        fewer = {(row.task, row.metric): row for row in _rows(first, last, labels)}
        rows = [_with_clean(row, fewer.get((row.task, row.metric))) for row in rows]
    return Report(rows)


def _rows(before: Measures, after: Measures, labels: Mapping[str, str]) -> list[Row]:
    rows = []
    for task in dict.fromkeys((*before, *after)):
        first, last = before.get(task, {}), after.get(task, {})
        for name in dict.fromkeys((*last, *first)):
            rows.append(_row(task, labels[task], first.get(name), last.get(name)))
    measured = [s for s in forgetting.SCORES if s.is_measured(before) and s.is_measured(after)]
    return rows + [_score(score, before, after) for score in measured]


def _row(task: str, label: str, before: Measured | None, after: Measured | None) -> Row:
    one = before or after
    metric = one.metric
    about = (task, metric.name, metric.section, _label(label, metric), label)
    shown = {"percent": metric.percent, "in_table": metric.in_table}
    if before is None or after is None:
        first, last = (each and each.estimate for each in (before, after))
        return Row(*about, one.estimate.n, first, last, None, None, **shown)

    change = stats.difference(before.column, after.column, metric.exponential)
    accuracy = metric.section == "forgetting" and metric.percent
    return Row(
        *about,
        items=after.estimate.n,
        before=before.estimate,
        after=after.estimate,
        change=change,
        better=_better(change, metric.higher_is_better),
        note=_note(before.estimate, before.chance) if accuracy else "",
        flips=forgetting.flips(before.column, after.column) if accuracy else None,
        **shown,
    )


def _score(score: Score, before: Measures, after: Measures) -> Row:
    found = forgetting.measure(before, after, score)
    return Row(
        task=score.name,
        metric="acc",
        section="forgetting",
        label=score.label,
        task_label=score.label,
        items=found.after.n,
        before=found.before,
        after=found.after,
        change=found.change,
        better=_better(found.change),
        percent=True,
        in_table=True,
        note=_note(found.before, found.chance),
        flips=found.flips,
    )


def _label(task_label: str, metric: Metric) -> str:
    """A group's label is indented under its metric's."""
    return metric.label if metric.label.startswith(" ") else f"{task_label}, {metric.label}"


def _note(before: Estimate, chance: float | None) -> str:
    return "no headroom" if chance is not None and stats.near_chance(before, chance) else ""


def _better(change: Estimate, higher: bool = True) -> bool | None:
    sure = not math.isnan(change.se) and abs(change.mean) > 2 * change.se
    return (change.mean > 0) == higher if sure else None


def _measures(results: Results) -> Measures:
    return {task: result.measured for task, result in results.items()}


def _without(measures: Measures, overlapping: Mapping[str, Set[str]]) -> Measures:
    """The metrics over the items that are not in {task: ids}; those left without an item go."""
    fewer: Measures = {}
    for task, metrics in measures.items():
        ids = overlapping.get(task, set())
        clean = {name: measured.without(ids) for name, measured in metrics.items()}
        fewer[task] = {name: measured for name, measured in clean.items() if measured is not None}
    return fewer


def _with_clean(row: Row, clean: Row | None) -> Row:
    return dataclasses.replace(row, clean=clean) if clean and clean.items < row.items else row


def _flat(row: Row) -> list[dict[str, Any]]:
    about = {"task": row.task, "metric": row.metric, "section": row.section, "label": row.label.strip()}
    variants = {"before": row.before, "after": row.after, "change": row.change}
    return [
        about | {"variant": name, "estimate": e.mean, "se": e.se, "n": e.n, "clusters": e.clusters}
        for name, e in variants.items()
        if e is not None
    ]
