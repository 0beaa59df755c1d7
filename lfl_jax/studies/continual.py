"""What tasks that were learned one after another did to each other, of every method of a study.

Each method is at its best learning rate, one for all of its tasks: where their mean score after the
last one is best, which is the average accuracy of Lopez-Paz and Ranzato. A seed's rate is that of
the other seeds. A rate at the edge of its sweep is not known to be the best, and then neither is
the transfer.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.errors import UserError
from lfl_jax.evals.tasks import TASKS
from lfl_jax.statistics import transfer
from lfl_jax.statistics.effects import Effect, Part, over_seeds_and_items
from lfl_jax.statistics.frontier import Arm, Axis
from lfl_jax.statistics.transfer import TaskScores
from lfl_jax.statistics.verdicts import Decision, decide
from lfl_jax.studies import answers
from lfl_jax.studies.answers import BEST_RATE, PRIMARY
from lfl_jax.studies.arms import Grid, Measure, item_values
from lfl_jax.studies.claims import best
from lfl_jax.studies.claims.claim import reversed_decision
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Cell

# What is said of a method's tasks, each a mean over them.
QUANTITIES = {
    "at the end": transfer.at_the_end,
    "learned": transfer.learned,
    "backward": transfer.backward,
    "forward": transfer.forward,
}


@dataclass(frozen=True)
class Models:
    """The scores of a method's runs, by seed, cell and task in the order of training."""

    flat: list[Scores]
    shape: tuple[int, int, int]

    def values(self, base: Scores, measure: Measure) -> Float[np.ndarray, "S P N I"]:
        """By item, in the base's order."""
        by_run = [item_values(base, scores, measure) for scores in self.flat]
        return np.stack(by_run).reshape(*self.shape, -1)


@dataclass(frozen=True)
class Transfer:
    """A method's transfer between its tasks, at every cell that has them all.

    grid: arm.x is how well tasks were learned, arm.y how much of them later ones made it forget,
    which is backward transfer with the other sign. scores: of the matrix, after every task.
    besides: {another evaluation: its means after every task}, in its own direction.
    """

    grid: Grid
    scores: tuple[TaskScores, ...]
    besides: Mapping[Measure, Float[np.ndarray, "S P N"]]

    @property
    def reason(self) -> str:
        """Why the best learning rate is not known; "" where it is."""
        if not best.is_at_edge(self._by_end, self.grid.longest):
            return ""
        cells = self.grid.of_length(self.grid.longest)
        means = self._by_end.arm.x.means()[cells]
        rate, rates = self.grid.rates[cells[int(np.argmax(means))]], self.grid.rates[cells]
        return (
            f"{self.grid.arm.name}: the best learning rate, {rate:g}, is the edge of its sweep"
            f" ({min(rates):g} to {max(rates):g}); add rates beyond"
        )

    @functools.cached_property
    def chosen(self) -> Int[np.ndarray, " S"]:
        """Of each seed, the cell that is best by the others."""
        return best.chosen_cells(self._by_end, self.grid.longest)

    @functools.cached_property
    def _by_end(self) -> Grid:
        """The grid by what the best rate is chosen by."""
        arm = Arm(self.grid.arm.name, self.axes["at the end"], self.grid.arm.y)
        return dataclasses.replace(self.grid, arm=arm)

    @property
    def chosen_rates(self) -> str:
        """In words; several where the seeds do not agree."""
        return ", ".join(f"{rate:g}" for rate in sorted({*self.grid.rates[self.chosen]}))

    @functools.cached_property
    def axes(self) -> dict[str, Axis]:
        """{each of QUANTITIES: by seed and cell}, in the scores' unit."""
        return {name: of_tasks(self.scores) for name, of_tasks in QUANTITIES.items()}

    def part(self, name: str) -> Part:
        """One of the axes, each seed at its best rate."""
        axis = self.axes[name]
        return Part(best.at_best(axis, self.chosen), axis.clusters)

    def at_best(self, name: str) -> Effect:
        """One of the axes at the best rate, over seeds and items."""
        return over_seeds_and_items(self.part(name))

    def by_seed(self, column: int) -> Float[np.ndarray, "S N"]:
        """A column of the matrix, then of `besides`, after each task, at the best rates.

        In the metric's own direction, as scores stand everywhere.
        """
        seeds, tasks = np.arange(len(self.chosen)), len(self.scores)
        if column >= tasks:
            return list(self.besides.values())[column - tasks][seeds, self.chosen]
        scores = self.scores[column]
        return scores.sign * scores.values.mean(axis=3)[seeds, self.chosen]


@dataclass(frozen=True)
class Contrast:
    """Backward transfer of two methods: the first's less the second's, so that more keeps more.

    equal: what is held equal, of `answers.EQUAL`. Without a decision, reason says why.
    """

    first: str
    second: str
    equal: str
    decision: Decision | None = None
    reason: str = ""


@dataclass(frozen=True)
class Transfers:
    """Of a whole study. names: of its tasks. missing: {method: why it has no transfer}."""

    names: tuple[str, ...]
    by_method: Mapping[str, Transfer]
    contrasts: tuple[Contrast, ...]
    missing: Mapping[str, str]


def of_study(findings: Findings) -> Transfers:
    """Every method's, and every contrast of the study; of a study with a sequence."""
    by_method, missing = {}, {}
    for method, grid in findings.grids.items():
        cells = [cell for cell in grid.cells if not list(_lost(findings, method, cell))]
        if cells:
            by_method[method] = _transfer(findings, method, cells)
        else:
            lost = itertools.chain(*(_lost(findings, method, cell) for cell in grid.cells))
            missing[method] = f"{method}: no learning rate has all tasks of all seeds; {next(lost)}"
    contrasts = [
        _contrast(findings, by_method, missing, equal, *pair)
        for equal in (BEST_RATE, PRIMARY)
        for pair in findings.pairs
    ]
    names = tuple(task.name for task in findings.sequence)
    return Transfers(names, by_method, tuple(contrasts), missing)


def _lost(findings: Findings, method: str, cell: Cell) -> Iterator[str]:
    """The runs of earlier tasks that have no scores, and why: of finished last tasks."""
    for run in findings.earlier:
        is_of_cell = (run.method, run.cell) == (method, cell)
        if is_of_cell and run.seed in findings.seeds and run.scores is None:
            yield f"{run.name}: {run.reason}"


def _transfer(findings: Findings, method: str, cells: Sequence[Cell]) -> Transfer:
    models = _models(findings, method, cells)
    scores = tuple(_task_scores(findings.base, models, task.score) for task in findings.sequence)
    backward = transfer.backward(scores)
    forgotten = Axis(-backward.values, backward.clusters)
    arm = Arm(method, transfer.learned(scores), forgotten)
    grid = Grid(arm, None, tuple(cells), findings.seeds, ())
    besides = {
        measure: models.values(findings.base, measure).mean(axis=3)
        for measure in other_measures(findings)
    }
    return Transfer(grid, scores, besides)


def _models(findings: Findings, method: str, cells: Sequence[Cell]) -> Models:
    by_place = {(run.task, *run.place): run.scores for run in findings.all_runs}
    tasks = [task.name for task in findings.sequence]
    places = itertools.product(findings.seeds, cells, tasks)
    flat = [by_place[task, method, cell, seed] for seed, cell, task in places]
    return Models(flat, (len(findings.seeds), len(cells), len(tasks)))


def _task_scores(base: Scores, models: Models, measure: Measure) -> TaskScores:
    """A column of the matrix, more being better."""
    like = measure.of(base)
    sign = like.metric.sign
    untrained = sign * item_values(base, base, measure)
    values = sign * models.values(base, measure)
    return TaskScores(values, untrained, like.column.clusters, sign)


def other_measures(findings: Findings) -> list[Measure]:
    """The main metric of every evaluation that is no task's and the same in all runs."""
    of_tasks = {task.score.task for task in findings.sequence}
    return [
        Measure(name, next(iter(metrics)))
        for name, metrics in findings.base.tasks.items()
        # What a run trains on is another text after every task.
        if name not in of_tasks and name in TASKS and not TASKS[name].reads_source
    ]


def _contrast(
    findings: Findings,
    by_method: Mapping[str, Transfer],
    missing: Mapping[str, str],
    equal: str,
    first: str,
    second: str,
) -> Contrast:
    asked = functools.partial(Contrast, first, second, equal)
    for method in (first, second):
        if method in missing:
            return asked(reason=missing[method])
    # Of two methods that have all of their tasks.
    pair = by_method[first], by_method[second]
    margin = findings.question.margin
    try:
        decision = WAYS[equal](*pair, margin)
    # A question that cannot be answered is one of a study's findings, not its end.
    except UserError as error:
        return asked(reason=str(error))
    return asked(decision, decision.reason)


def _at_best_rates(first: Transfer, second: Transfer, margin: float) -> Decision:
    """Each at its own; UserError where that is the edge of a sweep."""
    for one in (first, second):
        if one.reason:
            raise UserError(one.reason)
    parts = [one.part("backward") for one in (first, second)]
    difference = Part(parts[0].values - parts[1].values, parts[0].clusters)
    return decide(over_seeds_and_items(difference), margin)


def _at_equal_learning(first: Transfer, second: Transfer, margin: float) -> Decision:
    """Where both learned the tasks as well; UserError where their rates do not reach that."""
    answer = answers.ask(PRIMARY, first.grid, second.grid, margin)
    if answer.decision is None:
        raise UserError(answer.reason)
    # Of forgetting, which is backward transfer with the other sign.
    return reversed_decision(answer.decision)


WAYS = {BEST_RATE: _at_best_rates, PRIMARY: _at_equal_learning}
