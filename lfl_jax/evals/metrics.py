"""The metrics of tasks: declared once, and iterated over by tables, results.json and figures."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lfl_jax.evals import stats
from lfl_jax.evals.stats import Column, Estimate, Kind

Record = dict[str, Any]  # one item's JSON object
# A record's field, or a number computed from the record; None = not defined for this item.
Field = str | Callable[[Record], float | None]
Section = Literal["learning", "forgetting", "format", "diversity", "divergence"]


@dataclass(frozen=True)
class Metric:
    """One number of a task: the mean of `field` over items, or sum(field) / sum(weight).

    name: as other tools have it in their records ("exact_match_strict"); unique within its task.
    label: in tables, after the task's. section: what the metric is evidence of; "format" is how
    answers look, "diversity" how samples of an item differ, "divergence" how far a model went from
    its base. percent: a fraction, printed x 100. interval: of a "proportion" (values between 0 and
    1), or of any other "mean". chance: the score of guessing, or a field with the score of guessing
    an item. by: a field with the names of the groups that an item is in. A group that does not hold
    all items gets a metric of its own, "name_group", in alphabetical order. group_labels: labels of
    groups, by default their names. macro: the group of a record, to report the mean over groups of
    their means. exponential: report exp of the mean (a perplexity). in_table: False = in
    results.json only.
    """

    name: str
    field: Field
    label: str
    section: Section = "learning"
    weight: Field | None = None
    higher_is_better: bool = True
    percent: bool = True
    interval: Kind = "proportion"
    chance: Field | float | None = None
    by: str | None = None
    group_labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    macro: Callable[[Record], str] | None = None
    exponential: bool = False
    in_table: bool = True

    @property
    def sign(self) -> float:
        """1 where more is better, else -1: of a factor with which more is better."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def is_group(self) -> bool:
        """Whether this is the metric of a group, whose label is indented."""
        return self.label.startswith(" ")

    def measure(self, records: Sequence[Record]) -> list["Measured"]:
        """The metric over all records, then over each group; without those that are undefined."""
        measured = [self._measure(records)]
        groups = {group for record in records for group in record[self.by]} if self.by else set()
        for group in sorted(groups):
            # A group of all items would repeat the metric itself.
            members = [record for record in records if group in record[self.by]]
            if len(members) < len(records):
                measured.append(self._of_group(group)._measure(members))
        return [one for one in measured if one is not None]

    def estimate(self, column: Column) -> Estimate:
        """The metric of a column of its values, with its interval."""
        return stats.estimate(column, self.interval, self.exponential)

    def difference(self, before: Column, after: Column) -> Estimate:
        """Its change, paired over items, with its interval."""
        return stats.difference(before, after, self.interval, self.exponential)

    # The two spaces indent it under the metric of all items (`is_group`).
    def _of_group(self, group: str) -> "Metric":
        label = self.group_labels.get(group, group.replace("_", " "))
        return replace(self, name=f"{self.name}_{group}", label=f"  {label}", by=None)

    def _measure(self, records: Sequence[Record]) -> "Measured | None":
        column = self._column(records)
        if not sum(column.weights):
            return None
        # Functions cannot be pickled, and a result is sent to other processes; it has their values.
        described = replace(self, field=self.name, weight=None, chance=None, macro=None)
        return Measured(described, column, self.estimate(column), self._chance(records))

    def _column(self, records: Sequence[Record]) -> Column:
        values = [self._total_and_weight(record) for record in records]
        totals = tuple(total for total, _ in values)
        weights = tuple(weight for _, weight in values)
        ids = tuple(record["id"] for record in records)
        clusters = tuple(record["cluster"] for record in records)
        column = Column(ids, clusters, totals, weights)
        return column.balanced(tuple(map(self.macro, records))) if self.macro else column

    def _total_and_weight(self, record: Record) -> tuple[float, float]:
        """(0, 0) where the item does not define the metric: it then adds nothing to either sum."""
        total = _value(self.field, record)
        weight = 1.0 if self.weight is None else _value(self.weight, record)
        return (0.0, 0.0) if total is None or weight is None else (total, weight)

    def _chance(self, records: Sequence[Record]) -> float | None:
        if self.chance is None or isinstance(self.chance, int | float):
            return self.chance
        # Of these items: questions of one task may have different numbers of choices.
        values = [_value(self.chance, record) or 0.0 for record in records]
        return sum(values) / len(values)


@dataclass(frozen=True)
class Measured:
    """A metric of one evaluation: its values item by item, their mean, and the score of guessing.

    column: where there is a weight, an item's total and weight, whose quotient is its value.
    """

    metric: Metric
    column: Column
    estimate: Estimate
    chance: float | None

    def without(self, ids: Collection[str]) -> "Measured | None":
        """Over the items whose ids are not among these; None where no value remains."""
        column = self.column.without(ids)
        if not sum(column.weights):
            return None
        return replace(self, column=column, estimate=self.metric.estimate(column))


# The fields of a metric that is no fraction: Metric(..., **QUANTITY).
QUANTITY: dict[str, Any] = {"percent": False, "interval": "mean"}


def emitted_eos() -> Metric:
    """The fraction of generated texts that the model ended itself, by emitting EOS."""
    return Metric("emitted_eos", "ended", "emitted EOS", section="format")


def _value(field: Field, record: Record) -> float | None:
    value = record[field] if isinstance(field, str) else field(record)
    return None if value is None else float(value)
