"""How much each metric can tell in a study: its differences between models beside its noise.

Signal is the greatest difference of two models over the mean, max |m_j - m_k| / mean; noise the
standard deviation over the mean (arXiv 2508.13144): of one run over seeds, and of the last
checkpoints of a run where it was evaluated at them.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lfl_jax.evals import stats
from lfl_jax.evals.metrics import Measured
from lfl_jax.statistics import noise
from lfl_jax.studies.arms import Grid, Measure
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Run

NO_HEADROOM = "no headroom"
TOO_NOISY = "too noisy here"
# Share of a schedule whose end's checkpoints differ by noise; before it a model still learns.
LAST = 0.75


@dataclass(frozen=True)
class Quality:
    """Of one metric. signal, noise, checkpoint_noise: relative to its mean, NaN where not known.

    base: None where the base has no such metric, as its divergence from itself.
    """

    measure: Measure
    base: Measured | None
    signal: float
    noise: float
    checkpoint_noise: float

    @property
    def ratio(self) -> float:
        """Signal over the noise of seeds."""
        return self.signal / self.noise if self.noise > 0 else math.nan

    @property
    def labels(self) -> tuple[str, ...]:
        """What a reader has to know of it before believing a difference."""
        labels = []
        # A task that is to be learned begins at chance; one that could be forgotten must not.
        chance = (
            self.base.chance if self.base and self.base.metric.section == "forgetting" else None
        )
        if chance and stats.near_chance(self.base.estimate, chance):
            labels.append(NO_HEADROOM)
        if self.ratio < 1:
            labels.append(TOO_NOISY)
        return tuple(labels)


def assess(base: Scores, runs: Sequence[Run], by_method: Mapping[str, Grid]) -> list[Quality]:
    """Every metric that all runs that count have."""
    by_place = {run.place: run for run in runs}
    chosen = []
    for method, grid in by_method.items():
        chosen += [[by_place[method, cell, seed] for seed in grid.seeds] for cell in grid.cells]
    return [_quality(measure, base, chosen) for measure in _measures(chosen)]


def _measures(cells: Sequence[Sequence[Run]]) -> list[Measure]:
    """Those of the first run that no other lacks."""
    first, *others = (run.scores for run in itertools.chain(*cells))
    measures = []
    for task, metrics in first.tasks.items():
        for name in metrics:
            if all(name in scores.tasks.get(task, {}) for scores in others):
                measures.append(Measure(task, name))
    return measures


def _quality(measure: Measure, base: Scores, cells: Sequence[Sequence[Run]]) -> Quality:
    by_run = [_score(run.scores, measure) for run in itertools.chain(*cells)]
    scores = np.reshape(by_run, (len(cells), -1)).T
    mean = abs(float(scores.mean()))
    # A score around zero, a log-probability of certain answers, is relative to nothing.
    relative = 1 / mean if mean > 0 else math.nan
    over_seeds = noise.floor(scores) if len(scores) > 1 else math.nan
    return Quality(
        measure,
        base.tasks.get(measure.task, {}).get(measure.metric),
        float(np.ptp(scores.mean(axis=0))) * relative,
        over_seeds * relative,
        _of_checkpoints(measure, cells) * relative,
    )


def _of_checkpoints(measure: Measure, cells: Sequence[Sequence[Run]]) -> float:
    """One run's standard deviation over its last checkpoints, pooled; NaN without two of them."""
    variances = []
    for run in itertools.chain(*cells):
        last = [
            _score(scores, measure)
            for step, scores in run.along.items()
            if step >= LAST * run.step and measure.metric in scores.tasks.get(measure.task, {})
        ]
        if len(last) > 1:
            variances.append(float(np.var(last, ddof=1)))
    return math.sqrt(sum(variances) / len(variances)) if variances else math.nan


def _score(scores: Scores, measure: Measure) -> float:
    return measure.of(scores).estimate.mean
