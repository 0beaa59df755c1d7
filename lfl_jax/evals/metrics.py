"""What a task measures, declared once: tables, results.json, metrics.jsonl and figures iterate over
this."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lfl_jax.evals import stats
from lfl_jax.evals.stats import Column, Estimate, Kind

Record = dict[str, Any]  # one item's JSON object
# a record's field, or a number worked out from it; None = not defined
Field = str | Callable[[Record], float | None]
Section = Literal["learning", "forgetting", "format", "diversity"]


@dataclass(frozen=True)
class Metric:
    """A mean over items of `field`, or sum(field) / sum(weight): one number of a task, and how it
    reads.

    name: as in records of other tools ("exact_match_strict"); unique within its task. label: in
    tables, after the task's. section: what it is evidence of; "format" says how answers look,
    "diversity" how samples differ.
    percent: a fraction, printed x 100. interval: of a "proportion" (values between 0 and 1), or of
    any other "mean".
    chance: what guessing scores, or what it scores on an item.
    by: a field of records that lists the groups an item is in; each that is not all of them is also
    reported apart, as "name_group", in the order of their names. group_labels: how they read, by
    default as they are called.
    macro: a field (or function) of records that names their group: the mean over groups of their
    means.
    exponential: the exponential of the mean is reported (a perplexity). in_table: False = in
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

    def measure(self, records: Sequence[Record]) -> list["Measured"]:
        """The metric over these records, then over each group of `by`; nothing where no item
        defines it."""
        found = [self._measure(records)]
        groups = {group for record in records for group in record[self.by]} if self.by else set()
        for group in sorted(groups):
            members = [record for record in records if group in record[self.by]]
            if len(members) < len(records):
                found.append(self._of_group(group)._measure(members))
        return [each for each in found if each is not None]

    def estimate(self, column: Column) -> Estimate:
        """The metric of a column of its values, with its interval."""
        return stats.estimate(column, self.interval, self.exponential)

    def difference(self, before: Column, after: Column) -> Estimate:
        """Its change, paired over items, with its interval."""
        return stats.difference(before, after, self.interval, self.exponential)

    def _of_group(self, group: str) -> "Metric":
        label = self.group_labels.get(group, group.replace("_", " "))
        return replace(self, name=f"{self.name}_{group}", label=f"  {label}", by=None)

    def _measure(self, records: Sequence[Record]) -> "Measured | None":
        column = self._column(records)
        if not sum(column.weights):
            return None
        # Without its functions, a result can be sent to other processes.
        described = replace(self, field=self.name, weight=None, chance=None, macro=None)
        return Measured(described, column, self.estimate(column), self._chance(records))

    def _column(self, records: Sequence[Record]) -> Column:
        totals, weights = [], []
        for record in records:
            total = _value(self.field, record)
            weight = 1.0 if self.weight is None else _value(self.weight, record)
            undefined = total is None or weight is None
            totals.append(0.0 if undefined else total)
            weights.append(0.0 if undefined else weight)
        ids, clusters = (
            [record["id"] for record in records],
            [record["cluster"] for record in records],
        )
        column = Column(tuple(ids), tuple(clusters), tuple(totals), tuple(weights))
        return column.balanced(tuple(map(self.macro, records))) if self.macro else column

    def _chance(self, records: Sequence[Record]) -> float | None:
        if self.chance is None or isinstance(self.chance, int | float):
            return self.chance
        values = [_value(self.chance, record) or 0.0 for record in records]
        return sum(values) / len(values)


@dataclass(frozen=True)
class Measured:
    """A metric of one evaluation: the items' values, their mean, and what guessing scores on these
    items."""

    metric: Metric
    column: Column
    estimate: Estimate
    chance: float | None

    def without(self, ids: Collection[str]) -> "Measured | None":
        """Over the items whose ids are not among these; None where no value is left."""
        column = self.column.without(ids)
        if not sum(column.weights):
            return None
        return replace(self, column=column, estimate=self.metric.estimate(column))


# What a metric says that is no fraction.
QUANTITY: dict[str, Any] = {"percent": False, "interval": "mean"}


def emitted_eos() -> Metric:
    """The fraction of generated texts that the model ended itself, by its EOS."""
    return Metric("emitted_eos", "ended", "emitted EOS", section="format")


def _value(field: Field, record: Record) -> float | None:
    value = record[field] if isinstance(field, str) else field(record)
    return None if value is None else float(value)
