"""What a study says: each contrast's verdict, each method's best learning rate, the noise.

Nothing here is a number without its error, and a question that the runs cannot answer is answered
by the reason.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lfl_jax.statistics import noise
from lfl_jax.statistics.frontier import Axis
from lfl_jax.studies import along, changes, flips, predictors, quality, traits
from lfl_jax.studies.along import Courses
from lfl_jax.studies.answers import Answer, Question, answer
from lfl_jax.studies.arms import Grid, Measure, base_learning, grids, of_several_targets
from lfl_jax.studies.best_rates import BestRate, RateRatio, best_rate, rate_ratio
from lfl_jax.studies.changes import Change
from lfl_jax.studies.composite import with_means
from lfl_jax.studies.flips import FlipRates
from lfl_jax.studies.predictors import Predictor
from lfl_jax.studies.quality import Quality
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Run
from lfl_jax.studies.sequences import TaskConfig
from lfl_jax.studies.traits import Traits

if TYPE_CHECKING:
    from lfl_jax.studies.continual import Transfers


class Noise(NamedTuple):
    """One run's standard deviation over seeds; NaN for a single seed."""

    learning: float
    forgetting: float


@dataclass(frozen=True)
class Findings:
    """All that a report shows.

    noise: {method: its noise}. base, runs: the scores that everything else comes from. traits:
    {method: what kind of method it is}. sequence: of a study of several tasks, whose last one the
    runs are of; earlier: the runs of the others.
    """

    question: Question
    seeds: tuple[int, ...]
    grids: Mapping[str, Grid]
    answers: tuple[Answer, ...]
    best_rates: tuple[BestRate, ...]
    noise: Mapping[str, Noise]
    base: Scores
    runs: tuple[Run, ...]
    traits: Mapping[str, Traits]
    sequence: tuple[TaskConfig, ...] = ()
    earlier: tuple[Run, ...] = ()

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """Those of every task, in the order of training."""
        return *self.earlier, *self.runs

    @functools.cached_property
    def transfers(self) -> "Transfers | None":
        """What the tasks did to each other; None in a study of one task."""
        # It is made of findings, as what reads it is.
        from lfl_jax.studies import continual

        return continual.of_study(self) if self.sequence else None

    @functools.cached_property
    def predictors(self) -> dict[str, Predictor]:
        """{name: what it explains of forgetting}."""
        return predictors.explain(self.grids)

    @functools.cached_property
    def flips(self) -> dict[str, dict[str, FlipRates]]:
        """{accuracy: {method: answers that turned}}."""
        return flips.count(self.base, self.runs, self.grids, self.question.measures.forgetting)

    @functools.cached_property
    def changes(self) -> list[Change]:
        """Every metric at every cell, against the base."""
        return changes.measure(self.base, self.runs, self.grids)

    @functools.cached_property
    def quality(self) -> dict[Measure, Quality]:
        """{measure: how much it can tell}, of every metric."""
        assessed = quality.assess(self.base, self.runs, self.grids)
        return {one.measure: one for one in assessed}

    @functools.cached_property
    def courses(self) -> Courses | None:
        """What was learned and forgotten during training, where it was evaluated then."""
        return along.courses(self.runs, self.grids, self.question.measures)

    def label(self, measure: Measure) -> str:
        """A measure as an axis names it: with what to know before believing a difference."""
        assessed = self.quality.get(measure)
        notes = ", ".join(assessed.labels) if assessed else ""
        return f"{measure} ({notes})" if notes else str(measure)

    @property
    def learning_label(self) -> str:
        """Of the axis on which more is learned more: a loss has the opposite sign there."""
        measure = self.question.measures.learning
        if of_several_targets(self.runs):
            return f"{self.label(measure)}, better than the base by"
        sign = "" if measure.of(self.base).metric.higher_is_better else "–"
        return f"{sign}{self.label(measure)}"

    @property
    def base_learning(self) -> float:
        """Where the base is on that axis."""
        if of_several_targets(self.runs):
            return 0.0
        return base_learning(self.base, self.question.measures.learning)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every contrast's two methods, as they were declared."""
        return list(dict.fromkeys((answer.first, answer.second) for answer in self.answers))

    @functools.cached_property
    def rate_ratios(self) -> tuple[RateRatio, ...]:
        """Of the two methods of every contrast."""
        return tuple(rate_ratio(first, second, self.grids) for first, second in self.pairs)

    @property
    def noise_floor(self) -> Noise:
        """Of all methods together."""
        squares = np.square(list(self.noise.values()))
        return Noise(*map(float, np.sqrt(squares.mean(axis=0))))

    @property
    def left_out(self) -> list[str]:
        """Cells that do not count, with the reason of each."""
        return list(itertools.chain(*(grid.left_out for grid in self.grids.values())))


def find(
    base: Scores,
    runs: Sequence[Run],
    question: Question,
    by_config: Mapping[str, Traits] | None = None,
    sequence: tuple[TaskConfig, ...] = (),
) -> Findings:
    """Answer a study's question. UserError for runs that cannot be compared at all.

    by_config: {method: its traits}; those of other methods are read from their names. sequence: of
    tasks that the runs are of; the question is about those of the last one.
    """
    last = sequence[-1].name if sequence else ""
    earlier = tuple(_with_means(run) for run in runs if run.task != last)
    answered = _answer(base, [run for run in runs if run.task == last], question, by_config or {})
    return dataclasses.replace(answered, sequence=sequence, earlier=earlier)


def _answer(
    base: Scores, runs: Sequence[Run], question: Question, by_config: Mapping[str, Traits]
) -> Findings:
    """The findings of runs of one task."""
    base, runs = with_means(base), list(map(_with_means, runs))
    by_method = grids(base, runs, question.measures)
    # All grids have the same seeds, so that any of them tells.
    seeds = next(iter(by_method.values())).seeds
    best_rates = tuple(best_rate(method, grid) for method, grid in by_method.items())
    floors = {method: _noise(grid) for method, grid in by_method.items()}
    answers = tuple(answer(question, by_method))
    known = traits.of_names(by_method) | dict(by_config)
    kinds = {method: known[method] for method in by_method}
    return Findings(
        question, seeds, by_method, answers, best_rates, floors, base, tuple(runs), kinds
    )


def _with_means(run: Run) -> Run:
    along = {step: with_means(scores) for step, scores in run.along.items()}
    scores, base = (one and with_means(one) for one in (run.scores, run.base))
    return dataclasses.replace(run, scores=scores, along=along, base=base)


def _noise(grid: Grid) -> Noise:
    return Noise(_floor(grid.arm.x), _floor(grid.arm.y))


def _floor(axis: Axis) -> float:
    means = axis.by_run()
    return noise.floor(means) if len(means) > 1 else float("nan")
