"""Effects over seeds and items: the mean squares of a two-way analysis of variance, and coverage."""

import numpy as np
import pytest
from scipy import stats

from lfl_jax.statistics.effects import Part, over_seeds, over_seeds_and_items


def crossed(rng, seeds=5, items=40, seed_sd=1.0, item_sd=1.0, both_sd=1.0):
    """One value per seed and item, of mean 0."""
    return (
        rng.normal(0, seed_sd, (seeds, 1))
        + rng.normal(0, item_sd, (1, items))
        + rng.normal(0, both_sd, (seeds, items))
    )


def mean_squares(x):
    """Of seeds, items and their interaction."""
    seeds, items = x.shape
    of_seeds = items * np.var(x.mean(1), ddof=1)
    of_items = seeds * np.var(x.mean(0), ddof=1)
    rest = x - x.mean(1, keepdims=True) - x.mean(0, keepdims=True) + x.mean()
    return of_seeds, of_items, np.sum(rest**2) / ((seeds - 1) * (items - 1))


def test_the_variance_is_that_of_the_mean_squares():
    x = crossed(np.random.default_rng(0), item_sd=2.0)
    of_seeds, of_items, interaction = mean_squares(x)
    effect = over_seeds_and_items(Part(x))
    assert effect.se**2 == pytest.approx((of_seeds + of_items - interaction) / x.size)
    assert (effect.seeds, effect.clusters) == (5, 40)


def test_without_variation_over_items_it_is_the_t_test_over_seeds():
    x = np.random.default_rng(1).normal(size=6)
    expected = stats.ttest_1samp(x, 0.0)
    for effect in (over_seeds(x), over_seeds_and_items(Part(np.repeat(x[:, None], 7, 1)))):
        assert effect.p_value() == pytest.approx(expected.pvalue)
        assert effect.interval() == pytest.approx(tuple(expected.confidence_interval()))


def test_a_cluster_of_equal_items_counts_once():
    x = crossed(np.random.default_rng(2), items=30)
    twice = Part(np.repeat(x, 2, axis=1), clusters=np.repeat(np.arange(30), 2).tolist())
    assert over_seeds_and_items(twice).se == pytest.approx(over_seeds_and_items(Part(x)).se)
    as_if_independent = over_seeds_and_items(Part(twice.values))
    assert as_if_independent.se < over_seeds_and_items(twice).se


def test_a_constant_difference_has_no_error():
    effect = over_seeds_and_items(Part(np.full((5, 20), 0.25)))
    assert effect.interval() == (0.25, 0.25)
    assert effect.p_value() == 0.0


def test_parts_add_up():
    rng = np.random.default_rng(3)
    x, y = crossed(rng, items=20), crossed(rng, items=50)
    both = over_seeds_and_items(Part(x), Part(y))
    assert both.mean == pytest.approx(x.mean() + y.mean())
    of_items = [
        over_seeds_and_items(Part(z)).se ** 2 - over_seeds(z.mean(1)).se ** 2 for z in (x, y)
    ]
    assert both.se**2 == pytest.approx(over_seeds(x.mean(1) + y.mean(1)).se ** 2 + sum(of_items))


@pytest.mark.parametrize("deviations", [(0.3, 1.0, 1.0), (1.0, 0.1, 1.0), (0.0, 0.0, 1.0)])
def test_the_interval_holds_the_truth_as_often_as_it_says(deviations):
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(400):
        low, high = over_seeds_and_items(Part(crossed(rng, 5, 60, *deviations))).interval()
        hits += low <= 0 <= high
    assert 0.915 < hits / 400 < 0.99  # 0.95 within three standard errors, below


def test_one_seed_has_no_interval():
    effect = over_seeds(np.array([1.0]))
    assert np.isnan(effect.interval()[0]) and np.isnan(effect.p_value())
    assert (effect.mean, effect.df, effect.seeds) == (1.0, 0.0, 1)
