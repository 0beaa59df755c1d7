"""Items whose answer finetuning turned, to be read: by task and method, those of most seeds first.

An item that turned under every seed was forgotten; one that turned under a single one may be noise.
"""

import functools
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lfl_jax.evals.metrics import Measured
from lfl_jax.evals.stats import Column
from lfl_jax.studies.arms import Measure
from lfl_jax.studies.changes import Change
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.records.transcripts import Transcript

EMPTY = Transcript()


@dataclass(frozen=True)
class FlippedItem:
    """An item that turned under some seeds, as the base and the first of them answered it."""

    item: str
    seeds: tuple[int, ...]
    before: Transcript
    after: Transcript


@dataclass(frozen=True)
class FlippedItems:
    """Of one accuracy and method, where the method learned most: lost (became wrong) and gained.

    lost, gained: the first ones, of `lost_count` and `gained_count`. of_items: all of the task's.
    """

    change: Change
    seeds: int
    of_items: int
    lost: tuple[FlippedItem, ...]
    gained: tuple[FlippedItem, ...]
    lost_count: int
    gained_count: int


def groups(findings: Findings, most: int) -> Iterator[FlippedItems]:
    """Every task's first accuracy, for every method; at most so many items each way."""
    by_place = {run.place: run for run in findings.runs}
    for change in _of_accuracies(findings.changes):
        grid = findings.grids[change.method]
        if change.cell == grid.cells[grid.most_learned]:
            runs = {seed: by_place[change.method, change.cell, seed] for seed in grid.seeds}
            own = runs[grid.seeds[0]].base or findings.base
            trained = {seed: run.scores for seed, run in runs.items()}
            yield _group(own, trained, change, most)


def _of_accuracies(changes: Sequence[Change]) -> Iterator[Change]:
    """Of each task's first metric that is right or wrong, where it can be compared."""
    first: dict[str, Measure] = {}
    for change in changes:
        is_accuracy = change.before and change.before.column.is_right_or_wrong
        if is_accuracy and first.setdefault(change.measure.task, change.measure) == change.measure:
            yield change


def _group(base: Scores, trained: Mapping[int, Scores], change: Change, most: int) -> FlippedItems:
    measure = change.measure
    # {item: the seeds under which it became wrong, right}
    lost: dict[Hashable, list[int]] = defaultdict(list)
    gained: dict[Hashable, list[int]] = defaultdict(list)
    before = measure.of(base).column
    for seed, scores in trained.items():
        for item, shift in _shifts(before, measure.of(scores)):
            if shift:
                (lost if shift < 0 else gained)[item].append(seed)

    chosen = [_first(base, trained, measure.task, turned, most) for turned in (lost, gained)]
    return FlippedItems(change, len(trained), len(before.ids), *chosen, len(lost), len(gained))


def _shifts(before: Column, after: Measured) -> Iterator[tuple[Hashable, float]]:
    last = after.column.ordered_as(before).values()
    for item, first_value, last_value in zip(before.ids, before.values(), last, strict=True):
        yield item, last_value - first_value


def _first(
    base: Scores,
    trained: Mapping[int, Scores],
    task: str,
    turned: Mapping[Hashable, list[int]],
    most: int,
) -> tuple[FlippedItem, ...]:
    # Sorting is stable: items of as many seeds stay in the task's order.
    names = sorted(turned, key=lambda item: -len(turned[item]))[:most]
    asked = base.transcripts(task) if names else {}
    # Of each item the first seed that turned it; a seed's records are read once.
    answered = functools.cache(lambda seed: trained[seed].transcripts(task))
    items = []
    for name in names:
        seeds = tuple(turned[name])
        after = answered(seeds[0]).get(name, EMPTY)
        items.append(FlippedItem(str(name), seeds, asked.get(name, EMPTY), after))
    return tuple(items)
