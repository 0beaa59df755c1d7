"""What each method has learned and forgotten at every evaluation during training.

The evaluations are on dev items, and of a schedule that is not finished: they say how a run gets to
its end, and decide nothing.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.evals.metrics import Section
from lfl_jax.studies.arms import Grid, Measure, Measures
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Cell, Run


@dataclass(frozen=True)
class Course:
    """One method at the cell where it learned most.

    learned: the score since the base, so that more is more; forgotten: likewise, of what the base
    knew. steps: those at which every seed was evaluated, 0 first.
    """

    cell: Cell
    steps: Int[np.ndarray, " N"]
    learned: Float[np.ndarray, "S N"]
    forgotten: Float[np.ndarray, "S N"]


@dataclass(frozen=True)
class Courses:
    """Of all methods that were evaluated while they trained, and by which measures."""

    learning: Measure
    forgetting: Measure
    by_method: Mapping[str, Course]


def courses(
    runs: Sequence[Run], by_method: Mapping[str, Grid], declared: Measures
) -> Courses | None:
    """None where no method was evaluated for both learning and forgetting, and at step 0.

    A measure that was not evaluated then is replaced by the first one of its kind that was.
    """
    evaluated = {run.place: run.along for run in runs if run.along}
    everyone = list(itertools.chain(*(by_step.values() for by_step in evaluated.values())))
    kinds = (("learning", declared.learning), ("forgetting", declared.forgetting))
    both = [_measure(everyone, measure, kind) for kind, measure in kinds]
    if None in both:
        return None
    drawn = _complete(evaluated, by_method, *both)
    return Courses(*both, drawn) if drawn else None


def _complete(
    evaluated: Mapping[tuple[str, Cell, int], Mapping[int, Scores]],
    by_method: Mapping[str, Grid],
    learning: Measure,
    forgetting: Measure,
) -> dict[str, Course]:
    """Of the methods that were evaluated with all seeds."""
    drawn = {}
    for method, grid in by_method.items():
        cell = grid.cells[grid.most_learned]
        by_seed = [evaluated.get((method, cell, seed), {}) for seed in grid.seeds]
        course = _course(cell, by_seed, learning, forgetting)
        if course is not None:
            drawn[method] = course
    return drawn


def _course(
    cell: Cell, by_seed: Sequence[Mapping[int, Scores]], learning: Measure, forgetting: Measure
) -> Course | None:
    """Without the base on the same items there is nothing that was learned since."""
    steps = sorted(set(by_seed[0]).intersection(*by_seed))
    if len(steps) < 2 or steps[0] != 0:
        return None
    learned = np.stack([_since_base(one, steps, learning) for one in by_seed])
    forgotten = -np.stack([_since_base(one, steps, forgetting) for one in by_seed])
    return Course(cell, np.array(steps), learned, forgotten)


def _measure(everyone: Sequence[Scores], declared: Measure, section: Section) -> Measure | None:
    """The declared one, or the first of the section, that every evaluation has."""
    times: Counter[Measure] = Counter()
    for scores in everyone:
        for task, metrics in scores.tasks.items():
            measures = {Measure(task, name): one.metric.section for name, one in metrics.items()}
            times.update(m for m, its in measures.items() if its == section or m == declared)
    complete = [measure for measure, count in times.items() if count == len(everyone)]
    return declared if declared in complete else next(iter(complete), None)


def _since_base(
    by_step: Mapping[int, Scores], steps: Sequence[int], measure: Measure
) -> Float[np.ndarray, " N"]:
    """The change of the score, so that better is more."""
    measured = [measure.of(by_step[step]) for step in steps]
    scores = np.array([one.estimate.mean for one in measured])
    return measured[0].metric.sign * (scores - scores[0])
