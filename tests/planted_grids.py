"""The findings of a study whose grids are written down: for rules on answers, without any files."""

import numpy as np

from lfl_jax.evals.metrics import Metric
from lfl_jax.statistics.frontier import Arm, Axis
from lfl_jax.studies import traits as kinds
from lfl_jax.studies.answers import Question, answer
from lfl_jax.studies.arms import Grid, Measure, Measures
from lfl_jax.studies.best_rates import best_rate
from lfl_jax.studies.findings import Findings, Noise
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Cell

SEEDS, ITEMS = 5, 40
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
MEASURES = Measures(Measure("target", "score"), Measure("source", "score"))
BASE_LEARNING = 0.1


def grid(
    name,
    learned,
    forgotten,
    rates=RATES,
    divergence=None,
    noise=0.01,
    steps=100,
    seed=0,
    **measures,
):
    """Means by rate, with noise of runs and items; divergence: likewise, exactly as given.

    measures: of weights and starts, by rate or by seed and rate, without noise.
    """
    rng = np.random.default_rng([seed, *map(ord, name)])

    def axis(means):
        runs = rng.normal(0, noise, (SEEDS, len(means), 1))
        items = rng.normal(0, noise, (SEEDS, len(means), ITEMS))
        return Axis(np.asarray(means, float)[None, :, None] + runs + items)

    far = None
    if divergence is not None:
        shape = (SEEDS, len(divergence), 1)
        far = Axis(np.asarray(divergence)[None, :, None] * np.exp(rng.normal(0, 0.01, shape)))
    cells = tuple(Cell(rate, steps) for rate in rates)
    arm = Arm(name, axis(learned), axis(forgotten))
    shape = (SEEDS, len(cells))
    known = {name: np.broadcast_to(np.asarray(x, float), shape) for name, x in measures.items()}
    return Grid(arm, far, cells, tuple(range(SEEDS)), (), known)


def findings(*grids, contrasts=(), margin=0.03, traits=None):
    """Of grids by their names."""
    by_name = {one.arm.name: one for one in grids}
    far = Measure("kl", "score") if all(one.divergence is not None for one in grids) else None
    measures = Measures(MEASURES.learning, MEASURES.forgetting, far)
    question = Question(measures, margin, contrasts)
    records = [
        {"id": f"i{i}", "cluster": f"i{i}", "score": BASE_LEARNING + 0.001 * (i % 2)}
        for i in range(ITEMS)
    ]
    metric = Metric("score", "score", "score", percent=False, interval="mean")
    measured = {"score": metric.measure(records)[0]}
    return Findings(
        question,
        tuple(range(SEEDS)),
        by_name,
        tuple(answer(question, by_name)),
        tuple(best_rate(name, one) for name, one in by_name.items()),
        {name: Noise(0.01, 0.01) for name in by_name},
        Scores("base", {"target": measured, "source": measured}),
        (),
        {name: (traits or {}).get(name, kind) for name, kind in kinds.of_names(by_name).items()},
    )
