"""The results of a run as rows: a metric before -> after, paired over items, with intervals."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from lfl_jax.analysis import forgetting
from lfl_jax.analysis.contamination import Overlaps
from lfl_jax.analysis.forgetting import Flips, Score
from lfl_jax.evals import stats
from lfl_jax.evals.metrics import Measured, Metric, Section
from lfl_jax.evals.run import Result
from lfl_jax.evals.stats import Estimate

Results = Mapping[str, Result]  # by task
NO_HEADROOM = "no headroom"


@dataclass(frozen=True)
class Row:
    """One metric of one task, before and after training.

    before, after: None where no item defines the metric, or the task was not evaluated. change:
    paired over items. is_main: the task's first metric, or a score of several tasks. flips: of an
    accuracy that may be forgotten. clean: the row over the items that the training source does not
    contain, None where these are all or none.
    """

    task: str
    task_label: str
    metric: Metric
    before: Estimate | None
    after: Estimate | None
    is_main: bool
    change: Estimate | None = None
    note: str = ""
    flips: Flips | None = None
    clean: "Row | None" = None

    @property
    def section(self) -> Section:
        """The metric's section."""
        return self.metric.section

    @property
    def label(self) -> str:
        """The task's label and the metric's; a group's is indented under its metric's."""
        if self.metric.is_group:
            return self.metric.label
        return f"{self.task_label}, {self.metric.label}"

    @property
    def items(self) -> int:
        """How many items define the metric."""
        return (self.after or self.before).n

    @property
    def is_better(self) -> bool | None:
        """Of the change; None where its interval covers 0, or there is no change."""
        if self.change is None or not self.change.is_decided:
            return None
        return (self.change.mean > 0) == self.metric.higher_is_better


@dataclass(frozen=True)
class Report:
    """Every row of the two evaluations of a run."""

    rows: list[Row]

    @property
    def learned(self) -> Row | None:
        """The answer to what was learned: the main metric of the first task of learning."""
        return next(iter(self.answers("learning")), None)

    @property
    def forgotten(self) -> Row | None:
        """The answer to what was forgotten: a score of several tasks, else the first task's.

        A row without headroom is taken only if no row has any.
        """
        return next(iter(self.answers("forgetting")), None)

    def answers(self, section: Section) -> list[Row]:
        """Rows that may stand for a section, the first choice first."""
        main_rows = [row for row in self.rows if row.section == section and row.is_main]
        compared = [row for row in main_rows if row.change is not None]
        scores = {score.name for score in forgetting.SCORES}
        # By the order of tasks and by the base's scores, never by the change: an answer that is
        # selected for its size would be biased.
        return sorted(compared, key=lambda row: (row.note == NO_HEADROOM, row.task not in scores))

    def to_rows(self) -> list[dict[str, Any]]:
        """A flat dict per task, metric and variant, for pandas.DataFrame.

        variant: "before", "after" or "change". estimate, low and high (95 %), se, n items,
        clusters. Names and units are the metric's own; fractions are not multiplied by 100.
        """
        return [flat for row in self.rows for flat in _flat(row)]


def report(before: Results, after: Results, overlaps: Overlaps | None = None) -> Report:
    """The report of a base (`before`) and of the model trained from it (`after`).

    overlaps: items that the training source contains, from `contamination.read`.
    """
    rows = _rows(before, after)
    if not overlaps or not any(overlaps.values()):
        return Report(rows)

    # The rows once more over the other items, each beside the row of all items.
    clean_rows = {}
    for row in _rows(_without(before, overlaps), _without(after, overlaps)):
        clean_rows[row.task, row.metric.name] = row
    return Report([_with_clean(row, clean_rows.get((row.task, row.metric.name))) for row in rows])


def _rows(before: Results, after: Results) -> list[Row]:
    """Every metric of every task, in the order of tasks, then the scores of several tasks."""
    rows: list[Row] = []
    for task in dict.fromkeys((*before, *after)):
        rows += _task_rows(task, before.get(task), after.get(task))

    # A run need not evaluate all tasks of a score.
    measured = _measured(before), _measured(after)
    for score in forgetting.SCORES:
        if score.is_measured(measured[0]) and score.is_measured(measured[1]):
            rows.append(_score_row(score, *measured))
    return rows


def _measured(results: Results) -> dict[str, dict[str, Measured]]:
    return {task: result.measured for task, result in results.items()}


def _task_rows(task: str, before: Result | None, after: Result | None) -> list[Row]:
    """The metrics of a task; one of the two results may be missing."""
    # Either may lack a metric that no item of it defines.
    first = before.measured if before else {}
    last = after.measured if after else {}
    label = (after or before).label
    rows = [
        _metric_row(task, label, first.get(name), last.get(name))
        for name in dict.fromkeys((*last, *first))
    ]
    # There is none where the source contains every item.
    return [replace(row, is_main=i == 0) for i, row in enumerate(rows)]


def _metric_row(task: str, label: str, before: Measured | None, after: Measured | None) -> Row:
    metric = (after or before).metric
    row = Row(
        task=task,
        task_label=label,
        metric=metric,
        before=before and before.estimate,
        after=after and after.estimate,
        is_main=False,
    )
    # Of the base only (config.eval.base_tasks), or defined in one of the evaluations only.
    if before is None or after is None:
        return row

    row = replace(row, change=metric.difference(before.column, after.column))
    # An accuracy can be at chance, and its items can flip; other metrics have neither.
    if metric.section == "forgetting" and metric.percent:
        note = _headroom_note(before.estimate, before.chance)
        row = replace(row, note=note, flips=forgetting.flips(before, after))
    return row


def _score_row(score: Score, before: forgetting.Results, after: forgetting.Results) -> Row:
    """The row of a mean over several tasks."""
    result = forgetting.measure(before, after, score)
    return Row(
        task=score.name,
        task_label=score.label,
        metric=forgetting.MEAN_ACCURACY,
        before=result.before,
        after=result.after,
        is_main=True,
        change=result.change,
        note=_headroom_note(result.before, result.chance),
        flips=result.flips,
    )


def _headroom_note(before: Estimate, chance: float | None) -> str:
    return NO_HEADROOM if chance is not None and stats.near_chance(before, chance) else ""


def _without(results: Results, overlaps: Mapping[str, Set[str]]) -> dict[str, Result]:
    """The results over the items whose ids are not in {task: ids}."""
    return {task: result.without(overlaps.get(task, set())) for task, result in results.items()}


def _with_clean(row: Row, clean: Row | None) -> Row:
    return replace(row, clean=clean) if clean and clean.items < row.items else row


def _flat(row: Row) -> Iterator[dict[str, Any]]:
    """The dicts of `Report.to_rows`."""
    fields = {
        "task": row.task,
        "metric": row.metric.name,
        "section": row.section,
        "label": row.label.strip(),
    }
    variants = {"before": row.before, "after": row.after, "change": row.change}
    for variant, e in variants.items():
        if e is not None:
            yield fields | {
                "variant": variant,
                "estimate": e.mean,
                "low": e.low,
                "high": e.high,
                "se": e.se,
                "n": e.n,
                "clusters": e.clusters,
            }
