"""Results of a run as rows: learned and forgotten, before -> after, paired over items, with 95 %
intervals."""

import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import Any

from lfl_jax.analysis import forgetting
from lfl_jax.analysis.contamination import Overlapping
from lfl_jax.analysis.forgetting import Flips, Score
from lfl_jax.evals import stats
from lfl_jax.evals.metrics import Measured, Metric, Section
from lfl_jax.evals.run import Result
from lfl_jax.evals.stats import Estimate

Results = Mapping[str, Result]
Measures = dict[str, dict[str, Measured]]  # {task: {metric: measured}}
NO_HEADROOM = "no headroom"


@dataclasses.dataclass(frozen=True)
class Row:
    """A metric of a task with its numbers; None where no item defines it, or the task was not
    evaluated.

    label: task_label and the metric's, or an indented group. is_main: the task's first metric, or a
    score of several
    tasks. change: paired over items. better: None where the 95 % interval covers no change. flips:
    of an accuracy that
    may be forgotten. clean: the row once more over the items that the training source does not
    contain, None where that are all or none.
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
    higher_is_better: bool
    percent: bool
    in_table: bool
    is_main: bool
    note: str = ""
    flips: Flips | None = None
    clean: "Row | None" = None

    @property
    def progress(self) -> Estimate | None:
        """The change with the sign that more is better."""
        if self.change is None or self.higher_is_better:
            return self.change
        e = self.change
        return dataclasses.replace(e, mean=-e.mean, low=-e.high, high=-e.low)


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is said of the two evaluations of a run."""

    rows: list[Row]

    @property
    def learned(self) -> Row | None:
        """The answer: the first task of learning, its main metric."""
        return next(iter(self.answers("learning")), None)

    @property
    def forgotten(self) -> Row | None:
        """The answer: a score of several tasks, or else the first task of forgetting; without
        headroom only if none has any. It is chosen by the order of the tasks and by the base alone,
        never by what came out."""
        return next(iter(self.answers("forgetting")), None)

    def answers(self, section: Section) -> list[Row]:
        """Rows that may stand for a section, the first choice first."""
        rows = [
            row
            for row in self.rows
            if row.section == section and row.is_main and row.change is not None
        ]
        scores = {score.name for score in forgetting.SCORES}
        return sorted(rows, key=lambda row: (row.note == NO_HEADROOM, row.task not in scores))

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat dict per task, metric and variant ("before", "after", "change"), for
        pandas.DataFrame.

        estimate, low and high (95 %), se, n items, clusters; names and units are the metric's own,
        fractions not x 100.
        """
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
        names = list(dict.fromkeys((*last, *first)))
        for name in names:
            row = _row(task, labels[task], first.get(name), last.get(name))
            rows.append(dataclasses.replace(row, is_main=name == names[0]))
    measured = [s for s in forgetting.SCORES if s.is_measured(before) and s.is_measured(after)]
    return rows + [_score(score, before, after) for score in measured]


def _row(task: str, label: str, before: Measured | None, after: Measured | None) -> Row:
    one = after or before
    metric = one.metric
    row = Row(
        task=task,
        metric=metric.name,
        section=metric.section,
        label=_label(label, metric),
        task_label=label,
        items=one.estimate.n,
        before=before and before.estimate,
        after=after and after.estimate,
        change=None,
        better=None,
        higher_is_better=metric.higher_is_better,
        percent=metric.percent,
        in_table=metric.in_table,
        is_main=False,
    )
    if before is None or after is None:
        return row

    change = metric.difference(before.column, after.column)
    row = dataclasses.replace(row, change=change, better=_better(change, metric.higher_is_better))
    if metric.section != "forgetting" or not metric.percent:
        return row
    note = _note(before.estimate, before.chance)
    return dataclasses.replace(row, note=note, flips=forgetting.flips(before, after))


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
        higher_is_better=True,
        percent=True,
        in_table=True,
        is_main=True,
        note=_note(found.before, found.chance),
        flips=found.flips,
    )


def _label(task_label: str, metric: Metric) -> str:
    """A group's label is indented under its metric's."""
    return metric.label if metric.label.startswith(" ") else f"{task_label}, {metric.label}"


def _note(before: Estimate, chance: float | None) -> str:
    return NO_HEADROOM if chance is not None and stats.near_chance(before, chance) else ""


def _better(change: Estimate, higher: bool = True) -> bool | None:
    return (change.mean > 0) == higher if change.is_decided else None


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


def _flat(row: Row) -> Sequence[dict[str, Any]]:
    about = {
        "task": row.task,
        "metric": row.metric,
        "section": row.section,
        "label": row.label.strip(),
    }
    variants = {"before": row.before, "after": row.after, "change": row.change}
    return [
        about | {"variant": name} | _numbers(e) for name, e in variants.items() if e is not None
    ]


def _numbers(e: Estimate) -> dict[str, float | int]:
    return {
        "estimate": e.mean,
        "low": e.low,
        "high": e.high,
        "se": e.se,
        "n": e.n,
        "clusters": e.clusters,
    }
