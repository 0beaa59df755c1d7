"""The values of a method's grid: paired item by item, whatever the items weigh."""

import numpy as np
import pytest

from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.statistics.effects import Part, over_seeds_and_items
from lfl_jax.studies.arms import Measure, Measures, grids
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Run

LOSS = Metric("nll", "nll", "loss", weight="tokens", higher_is_better=False, **QUANTITY)
MEASURES = Measures(Measure("text", "nll"), Measure("text", "nll"))


def scores(name, per_token, tokens):
    """A model's losses of texts of so many tokens."""
    records = [
        {"id": str(i), "cluster": str(i), "nll": loss * length, "tokens": length}
        for i, (loss, length) in enumerate(zip(per_token, tokens, strict=True))
    ]
    (measured,) = LOSS.measure(records)
    return Scores(name, {"text": {"nll": measured}})


def test_a_loss_that_differs_alike_at_every_token_has_no_error_over_texts_of_any_length():
    rng = np.random.default_rng(0)
    tokens, base = rng.integers(1, 400, 30), rng.normal(2, 0.3, 30)
    runs = [
        Run(method, 1e-3, seed, 10, scores("run", base + worse, tokens))
        for method, worse in (("lora", 0.1), ("full", 0.35))
        for seed in range(3)
    ]
    by_method = grids(scores("base", base, tokens), runs, MEASURES)
    lora, full = (by_method[name].arm.y.values[:, 0] for name in ("lora", "full"))
    effect = over_seeds_and_items(Part(full - lora))
    assert effect.interval() == pytest.approx((0.25, 0.25), abs=1e-9)


def test_the_error_of_a_loss_per_token_is_that_of_the_ratio():
    rng = np.random.default_rng(1)
    tokens, base = rng.integers(1, 400, 30), rng.normal(2, 0.3, 30)
    one = scores("run", base + rng.normal(0.2, 0.1, 30), tokens)
    runs = [Run("lora", 1e-3, seed, 10, one) for seed in range(2)]
    grid = grids(scores("base", base, tokens), runs, MEASURES)["lora"]
    measured = one.tasks["text"]["nll"].estimate
    learned = over_seeds_and_items(grid.arm.x.part(0))
    assert (-learned.mean, learned.se) == pytest.approx((measured.mean, measured.se))
