"""From runs to the arms of a contrast: every method's scores by seed, grid cell and item."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.errors import UserError
from lfl_jax.evals.metrics import Measured
from lfl_jax.statistics.frontier import Arm, Axis
from lfl_jax.studies import composite
from lfl_jax.studies.records.scores import Scores, require_comparable
from lfl_jax.studies.runs import Cell, Run

# (base, run, measure) -> a value for each item
Values = Callable[[Scores, Scores, "Measure"], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A metric of a task, "hellaswag/acc_norm", or of a mean over tasks, "mean_of_three/acc"."""

    task: str
    metric: str

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that have to be evaluated."""
        return composite.PARTS.get(self.task, (self.task,))

    @classmethod
    def parse(cls, text: str) -> "Measure":
        """UserError for anything but TASK/METRIC."""
        task, slash, metric = text.partition("/")
        if not slash or not task or not metric:
            raise UserError(f"measure {text!r}: expected TASK/METRIC, such as hellaswag/acc_norm")
        return cls(task, metric)

    def of(self, scores: Scores) -> Measured:
        """Its values in a model's scores; UserError with what there is when it was not measured."""
        try:
            return scores.tasks[self.task][self.metric]
        except KeyError:
            there = [f"{task}/{name}" for task, metrics in scores.tasks.items() for name in metrics]
            raise UserError(f"{scores.name} has no {self}; measured: {', '.join(there)}") from None

    def __str__(self) -> str:
        return f"{self.task}/{self.metric}"


@dataclass(frozen=True)
class Grid:
    """A method's runs as an arm, with what its cells are and which were left out, and why.

    arm.x is learning, arm.y forgetting, both so that more is more. Where a study has several
    targets, learning is since the base, each on its own target. divergence: of the runs' models
    from the base, in nats, where it was measured. measures: of weights and starts by name
    (`records.run_measures`), of every seed and cell; those that every run has.
    """

    arm: Arm
    divergence: Axis | None
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    left_out: tuple[str, ...]
    measures: Mapping[str, Float[np.ndarray, "S P"]] = field(default_factory=dict)

    @property
    def rates(self) -> Float[np.ndarray, " P"]:
        """The learning rate of every cell."""
        return np.array([cell.lr for cell in self.cells])

    @property
    def is_derived(self) -> bool:
        """Whether a cell is an altered change of a finished run, and no schedule of its own."""
        return not all(cell.point.is_trained for cell in self.cells)

    @property
    def is_prompted(self) -> bool:
        """Whether its cells are the base itself, with examples in the prompt."""
        return all(cell.point.is_prompt for cell in self.cells)

    @property
    def lengths(self) -> list[int]:
        """Steps of its runs, the longest first."""
        return sorted({cell.step for cell in self.cells}, reverse=True)

    @property
    def longest(self) -> int:
        """Steps of the longest runs."""
        return self.lengths[0]

    def of_length(self, steps: int) -> Int[np.ndarray, " K"]:
        """Indices of the cells with runs of this length, by rising learning rate."""
        return np.array([index for index, cell in enumerate(self.cells) if cell.step == steps])

    @property
    def most_learned(self) -> int:
        """The index of the cell that learned most."""
        return int(np.argmax(self.arm.x.means()))


@dataclass(frozen=True)
class Measures:
    """What was learned, what was forgotten, and how far the model went, if that was measured."""

    learning: Measure
    forgetting: Measure
    divergence: Measure | None = None

    @classmethod
    def parse(cls, learning: str, forgetting: str, divergence: str = "") -> "Measures":
        """From "TASK/METRIC" each, no divergence where it is empty; raises as `Measure.parse`."""
        far = Measure.parse(divergence) if divergence else None
        return cls(Measure.parse(learning), Measure.parse(forgetting), far)


def grids(base: Scores, runs: Sequence[Run], measures: Measures) -> dict[str, Grid]:
    """{method: its grid}. UserError for a method of which no cell has all seeds.

    All methods are compared over the same seeds: those that any cell of every method has. A cell
    with a failed or a missing seed is left out, because the others would be compared with it over
    other seeds. UserError also for targets with different numbers of items.
    """
    by_method: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_method[run.method].append(run)
    # Arms are paired by seed, so that what a seed does to both does not count as their difference.
    seeds = sorted(set.intersection(*map(_seeds, by_method.values())))
    if not seeds:
        raise UserError(f"methods {', '.join(by_method)} share no seed: their runs are not paired")
    learned = _gained if of_several_targets(runs) else _learned
    by_name = {
        method: _grid(method, _own_base(base, members), members, seeds, measures, learned)
        for method, members in by_method.items()
    }
    _require_as_many_items(by_name)
    return by_name


def of_several_targets(runs: Sequence[Run]) -> bool:
    """Whether runs have bases of their own: what they learned is then since those."""
    return any(run.base is not None for run in runs)


def _own_base(base: Scores, runs: Sequence[Run]) -> Scores:
    """Of a method's runs, which have one target."""
    return next(filter(None, (run.base for run in runs)), base)


def _require_as_many_items(by_method: Mapping[str, Grid]) -> None:
    # Items of two targets are no pairs; with as many of each, errors add up all the same.
    items = {method: grid.arm.x.values.shape[-1] for method, grid in by_method.items()}
    if len(set(items.values())) > 1:
        counts = ", ".join(f"{method} {count}" for method, count in items.items())
        raise UserError(
            f"learning is scored on different numbers of items: {counts}; evaluate as many of each"
        )


def _grid(
    method: str,
    base: Scores,
    runs: Sequence[Run],
    seeds: Sequence[int],
    measures: Measures,
    learning: Values,
) -> Grid:
    scores = {(run.cell, run.seed): run.scores for run in runs if run.scores is not None}
    cells, left_out = [], []
    for cell in sorted({run.cell for run in runs}):
        missing = [seed for seed in seeds if (cell, seed) not in scores]
        if missing:
            left_out.append(_reason(method, cell, missing, runs))
        else:
            cells.append(cell)
    if not cells:
        raise UserError(f"{method}: no learning rate finished with all of seeds {seeds}")

    def axis(measure: Measure, values: Values, like: Scores = base) -> Axis:
        by_run = [values(like, scores[c, s], measure) for s in seeds for c in cells]
        shape = (len(seeds), len(cells), -1)
        return Axis(np.stack(by_run).reshape(shape), measure.of(like).column.clusters)

    arm = Arm(method, axis(measures.learning, learning), axis(measures.forgetting, _forgotten))
    # The base has no divergence from itself: its items are in the order of any run.
    anyone = scores[cells[0], seeds[0]]
    far = measures.divergence and axis(measures.divergence, item_values, anyone)
    measured = _measured(runs, cells, seeds)
    return Grid(arm, far, tuple(cells), tuple(seeds), tuple(left_out), measured)


def _measured(
    runs: Sequence[Run], cells: Sequence[Cell], seeds: Sequence[int]
) -> dict[str, Float[np.ndarray, "S P"]]:
    """{measure: its values}, of those that all runs of these cells and seeds have."""
    by_place = {(run.cell, run.seed): run.measures for run in runs}
    counted = [by_place[cell, seed] for seed in seeds for cell in cells]
    names = set(counted[0]).intersection(*counted)
    by_name = {}
    for name in sorted(names):
        values = np.array([measures[name] for measures in counted])
        by_name[name] = values.reshape(len(seeds), len(cells))
    return by_name


def _seeds(runs: Sequence[Run]) -> set[int]:
    return {run.seed for run in runs}


def _reason(method: str, cell: Cell, missing: Sequence[int], runs: Sequence[Run]) -> str:
    # Every failed seed may have failed in its own way: all of them are said, the first is named.
    reasons = {run.reason for run in runs if run.cell == cell and run.seed in missing}
    why = "; ".join(sorted(filter(None, reasons))) or "not there"
    return f"{method}, {cell}: seed {missing[0]} {why}"


def base_learning(base: Scores, measure: Measure) -> float:
    """What the base scores before any training, so that more is learned more."""
    return float(_learned(base, base, measure).mean())


def _learned(base: Scores, run: Scores, measure: Measure) -> np.ndarray:
    """Each item's score, so that more is learned more."""
    return measure.of(base).metric.sign * item_values(base, run, measure)


def _gained(base: Scores, run: Scores, measure: Measure) -> np.ndarray:
    """Each item's score since the base: what targets of unequal difficulty have in common."""
    return _learned(base, run, measure) - _learned(base, base, measure)


def _forgotten(base: Scores, run: Scores, measure: Measure) -> np.ndarray:
    """Each item's loss of score against the base."""
    lost = item_values(base, base, measure) - item_values(base, run, measure)
    return measure.of(base).metric.sign * lost


def item_values(base: Scores, scores: Scores, measure: Measure) -> np.ndarray:
    """By item in the base's order, so that their plain mean is the metric.

    Of a ratio of sums (a loss per token) it is the linearised ratio: the ratio, plus what the item
    adds to its deviation, (total - ratio weight) / mean weight.
    """
    before, after = measure.of(base), measure.of(scores)
    require_comparable(base, scores, measure.task, measure.metric)
    column = after.column.ordered_as(before.column)
    totals, weights = np.asarray(column.totals), np.asarray(column.weights)
    # Exactly the scores where items count alike.
    if np.all(weights == weights[0]):
        return totals / weights[0]
    # Not total / mean weight: longer texts would differ by more where every token differs alike.
    ratio = totals.sum() / weights.sum()
    return ratio + (totals - ratio * weights) / weights.mean()
