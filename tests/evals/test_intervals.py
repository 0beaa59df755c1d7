"""95 % intervals against published examples, other formulas, and how often they hold the truth."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize

from lfl_jax.evals import intervals, stats

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_newcombe_s_table(correct, n, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3."""
    found = intervals.wilson(correct / n, n)
    assert found == pytest.approx((low, high), abs=5e-5)


def test_student_s_quantile():
    assert intervals.critical(10) == pytest.approx(
        2.262157, abs=1e-6
    ) and intervals.critical() == pytest.approx(Z)
    assert intervals.student(1.0, 2.0, 10) == pytest.approx((1 - 4.524314, 1 + 4.524314), abs=1e-5)
    assert all(map(math.isnan, intervals.student(1.0, math.nan, 1)))


def test_tango_is_the_published_example():
    """Bentur et al. 2009 in Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014): 1
    gained, 7 lost of 21."""
    assert intervals.tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert intervals.tango(7, 1, 21) == pytest.approx((0.026, 0.517), abs=5e-4)


def score(delta, gained, lost, n):
    """Tango's statistic with the constrained maximum of the multinomial likelihood found
    numerically."""

    def minus_log_likelihood(p_lost):
        p_gained = p_lost + delta
        rest = 1 - p_lost - p_gained
        cells = ((gained, p_gained), (lost, p_lost), (n - gained - lost, rest))
        return -sum(k * math.log(max(p, 1e-300)) for k, p in cells if k)

    low, high = max(0.0, -delta), (1 - delta) / 2
    found = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(low, high), options={"xatol": 1e-12}, method="bounded"
    )
    variance = n * (2 * found.x + delta - delta**2)
    return (gained - lost - n * delta) / math.sqrt(variance)


@pytest.mark.parametrize("counts", [(3, 9, 40), (1, 7, 21), (12, 2, 30), (5, 5, 16)])
def test_tango_s_limits_are_where_the_score_test_begins_to_reject(counts):
    low, high = intervals.tango(*counts)
    assert score(low, *counts) == pytest.approx(Z, abs=1e-3)
    assert score(high, *counts) == pytest.approx(-Z, abs=1e-3)


def test_nothing_observed_is_not_certainty():
    assert intervals.wilson(0.0, 16) == pytest.approx((0.0, Z**2 / (16 + Z**2)))
    assert intervals.wilson(1.0, 16)[1] == 1.0
    assert intervals.tango(0, 0, 16) == pytest.approx((-(Z**2) / (16 + Z**2), Z**2 / (16 + Z**2)))
    assert (
        intervals.tango(16, 0, 16)[1] == pytest.approx(1.0) and intervals.tango(16, 0, 16)[0] > 0.5
    )


def test_two_independent_proportions_are_newcombe_s():
    """Newcombe, Statistics in Medicine 17 (1998), 873-890, table II (a): 56/70 - 48/80, method
    10."""
    first, second = 56 / 70, 48 / 80
    parts = [
        (1.0, first, intervals.wilson(first, 70)),
        (-1.0, second, intervals.wilson(second, 80)),
    ]
    assert intervals.combined(first - second, parts) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def column(values, clusters=None, weights=None):
    ids = tuple(range(len(values)))
    weights = weights or [1.0] * len(values)
    totals = [x * w for x, w in zip(values, weights, strict=True)]
    return stats.Column(ids, tuple(clusters or ids), tuple(totals), tuple(weights))


def test_a_proportion_of_independent_items_is_wilson_s():
    found = stats.estimate(column([1.0] * 3 + [0.0] * 13), "proportion")
    assert (found.low, found.high) == pytest.approx(intervals.wilson(3 / 16, 16))
    found = stats.estimate(column([0.0] * 16), "proportion")
    assert (found.mean, found.low, found.high) == pytest.approx((0, *intervals.wilson(0.0, 16)))


def test_copies_of_an_item_add_nothing_to_an_interval():
    values = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    once = stats.estimate(column(values), "proportion")
    copies = stats.estimate(column(values * 2, clusters=[*range(8)] * 2), "proportion")
    assert once.high - once.low < copies.high - copies.low < 1.2 * (once.high - once.low), (
        "Student's t, not more"
    )
    same = [
        stats.difference(column([0.0] * n, c), column([0.0] * n, c), "proportion")
        for n, c in ((8, None),)
    ]
    assert (same[0].low, same[0].high) == pytest.approx(intervals.tango(0, 0, 8))


def test_a_change_of_right_answers_is_tango_s_and_of_fractions_student_s():
    before, after = [0.0] * 10 + [1.0] * 6, [1.0] * 9 + [0.0] + [1.0] * 4 + [0.0] * 2
    found = stats.difference(column(before), column(after), "proportion")
    assert (found.mean, found.low, found.high) == pytest.approx(
        (7 / 16, *intervals.tango(9, 2, 16))
    )
    halves = [x / 2 for x in after]
    found = stats.difference(column(before), column(halves), "proportion")
    assert (found.low, found.high) == pytest.approx(intervals.student(found.mean, found.se, 16))


def test_a_change_of_a_conditional_accuracy_is_of_two_ratios():
    """10 of 16 valid before, 5 right; all valid after, 12 right."""
    before = column([1.0] * 5 + [0.0] * 11, weights=[1.0] * 10 + [0.0] * 6)
    after = column([1.0] * 12 + [0.0] * 4)
    found = stats.difference(before, after, "proportion")
    assert found.mean == pytest.approx(12 / 16 - 5 / 10)
    assert found.low < 0 < found.high and found.high - found.low > 0.4
    same = stats.difference(
        column([1.0] * 10 + [0.0] * 6, weights=[1.0] * 10 + [0.0] * 6), column([1.0] * 16)
    )
    assert same.mean == 0.0


def test_an_exponential_s_interval_is_that_of_the_mean():
    values = [1.0, 1.2, 0.7, 1.1]
    mean, found = stats.estimate(column(values)), stats.estimate(column(values), exponential=True)
    assert (found.mean, found.low, found.high) == pytest.approx(
        tuple(map(math.exp, (mean.mean, mean.low, mean.high)))
    )
    change = stats.difference(column(values), column([x + 0.1 for x in values]), exponential=True)
    assert change.mean == pytest.approx(found.mean * (math.exp(0.1) - 1))
    shifted = stats.difference(column(values), column(values), exponential=True)
    assert (shifted.mean, shifted.low, shifted.high) == (0.0, 0.0, 0.0)


def test_the_mean_of_scores_joins_their_intervals():
    parts = [
        stats.estimate(column([0.0] * 16), "proportion"),
        stats.estimate(column([1.0] * 16), "proportion"),
    ]
    found = stats.plain_mean(parts)
    width = intervals.wilson(0.0, 16)[1] / 2
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5 - width, 0.5 + width))


def coverage(draw, truth, kind, runs=400):
    hits = 0
    for _ in range(runs):
        found = draw(kind)
        hits += found.low <= truth <= found.high
    return hits / runs


@pytest.mark.parametrize(("p", "change"), list(itertools.product((0.05, 0.3), (0.0, 0.2))))
def test_a_paired_change_is_covered_19_times_of_20(p, change):
    rng = np.random.default_rng(7)

    def draw(kind):
        before = rng.random(40) < p
        flips = rng.random(40)
        after = np.where(before, flips > 0.1, flips < 0.1 * p / (1 - p) + change / (1 - p))
        return stats.difference(column(list(before * 1.0)), column(list(after * 1.0)), kind)

    assert coverage(draw, change, "proportion") >= 0.92


def test_clustered_items_are_covered_as_well():
    """10 templates of 4 items with a rate of their own: taken for 40 items, they would be covered 8
    times of 10."""
    rng = np.random.default_rng(11)

    def draw(kind):
        rates = rng.beta(1.0, 3.0, 10)
        values = (rng.random((10, 4)) < rates[:, None]).astype(float)
        clusters = [i for i in range(10) for _ in range(4)] if kind == "clustered" else None
        return stats.estimate(column(list(values.ravel()), clusters), "proportion")

    assert coverage(draw, 0.25, "clustered") >= 0.92
    assert coverage(draw, 0.25, "independent") < 0.9
