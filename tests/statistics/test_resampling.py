"""Bootstrapped errors: those of formulas where there is no choice, and right where there is one."""

import numpy as np
import pytest

from lfl_jax.statistics import frontier, resampling
from lfl_jax.statistics.calibration import assumed, simulate
from lfl_jax.statistics.effects import Part, over_seeds_and_items
from lfl_jax.statistics.frontier import Axis, Curve


def scores(rng, means, seeds=5, items=60, run=0.03):
    """Of cells with these means, whose items differ in difficulty."""
    means = np.asarray(means)[:, None]
    return Axis(
        means
        + rng.normal(0, run, (seeds, len(means), 1))
        + rng.normal(0, 0.3, items)
        + rng.normal(0, 0.3, (seeds, len(means), items))
    )


def first_cell(means):
    return means[0][0][:, 0]


@pytest.mark.parametrize("run", [0.0, 0.2])
def test_the_error_of_a_mean_is_the_formula_s(run):
    axis = scores(np.random.default_rng(0), [0.5, 0.7], run=run)
    bootstrapped = resampling.effect(first_cell, [[axis]], draws=2000)
    formula = over_seeds_and_items(axis.part(0))
    assert bootstrapped.mean == pytest.approx(formula.mean)
    assert bootstrapped.se == pytest.approx(formula.se, rel=0.12)
    assert (bootstrapped.seeds, bootstrapped.clusters) == (5, 60)


def test_clusters_are_drawn_whole():
    axis = scores(np.random.default_rng(1), [0.5], items=30, run=0.0)
    twice = Axis(np.repeat(axis.values, 2, axis=2), np.repeat(np.arange(30), 2).tolist())
    one, two = (resampling.effect(first_cell, [[of]]) for of in (axis, twice))
    assert (one.se, one.clusters) == (pytest.approx(two.se), two.clusters)


def test_a_constant_shift_between_arms_has_an_interval_of_no_width():
    base, _ = simulate(assumed(), 0.0, np.random.default_rng(2))
    shifted = Axis(base.y.values + 0.1)

    def difference(means):
        (x,), (first, second) = means
        rows, best = np.arange(len(x)), np.argmax(x, axis=1)
        return first[rows, best] - second[rows, best]

    low, high = resampling.effect(difference, [[base.x], [shifted, base.y]]).interval()
    assert (low, high) == pytest.approx((0.1, 0.1), abs=1e-9)


def test_the_interval_of_a_choice_holds_the_truth_where_the_formula_s_does_not():
    """Two rates that learn nearly alike: another study would often choose the other."""
    rng = np.random.default_rng(3)
    learning, forgetting = [0.2, 0.5, 0.8, 0.78], [0.1, 0.2, 0.4, 0.6]

    def at_best(means):
        (x,), (y,) = means
        return y[np.arange(len(y)), np.argmax(x, axis=1)]

    repeated, fixed, studies = 0, 0, 100
    for _ in range(studies):
        x, y = scores(rng, learning), scores(rng, forgetting)
        low, high = resampling.effect(at_best, [[x], [y]]).interval()
        repeated += low <= 0.4 <= high
        low, high = over_seeds_and_items(y.part(int(np.argmax(x.means())))).interval()
        fixed += low <= 0.4 <= high
    assert repeated / studies >= 0.9 and fixed / studies <= 0.85


def test_the_gap_s_error_is_that_of_frontiers_found_again_in_every_draw():
    first, second = simulate(assumed(), 0.05, np.random.default_rng(4))

    def gaps(means):
        (x1, x2), (y1, y2) = means
        return np.array([mean_gap(*cells) for cells in zip(x1, y1, x2, y2, strict=True)])

    def mean_gap(x1, y1, x2, y2):
        chosen = frontier.pareto(x1, y1), frontier.pareto(x2, y2)
        curves = Curve(x1[chosen[0]], y1[chosen[0]]), Curve(x2[chosen[1]], y2[chosen[1]])
        return frontier.mean_gap(*curves)

    axes = [[first.x, second.x], [first.y, second.y]]
    bootstrapped = resampling.effect(gaps, axes)
    linearised = frontier.gap(first, second).effect
    assert bootstrapped.mean == pytest.approx(linearised.mean)
    assert bootstrapped.se == pytest.approx(linearised.se, rel=0.15)


def test_the_same_seed_draws_the_same():
    axis = scores(np.random.default_rng(5), [0.5])
    assert resampling.effect(first_cell, [[axis]]) == resampling.effect(first_cell, [[axis]])


def test_one_seed_has_no_error():
    effect = resampling.effect(first_cell, [[Axis(np.ones((1, 2, 9)))]])
    assert (effect.mean, effect.df) == (1.0, 0.0) and np.isnan(effect.se)


def test_a_run_s_own_value_has_the_error_over_seeds():
    values = np.random.default_rng(6).normal(size=(6, 1, 1))
    bootstrapped = resampling.effect(first_cell, [[Axis(values)]], draws=4000)
    formula = over_seeds_and_items(Part(values[:, 0]))
    assert bootstrapped.se == pytest.approx(formula.se, rel=0.05)
    assert (bootstrapped.df, bootstrapped.clusters) == (5.0, 0)
