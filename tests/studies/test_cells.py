"""Intervals of cells: near 0 and 1, of changes, and of scores that are neither."""

import numpy as np
import pytest
from scipy import stats

from lfl_jax.evals import intervals
from lfl_jax.statistics.effects import over_seeds_and_items
from lfl_jax.statistics.frontier import Axis
from lfl_jax.studies.cells import cell_mean


def test_none_of_sixteen_is_not_without_error():
    cell = cell_mean(Axis(np.zeros((5, 1, 16))), 0)
    # The seeds agree: they say nothing more of other items than one of them does.
    assert (cell.mean, cell.low, cell.high) == pytest.approx((0, *intervals.wilson(0.0, 16)))
    assert cell.high > 0.15
    in_pairs = cell_mean(Axis(np.ones((5, 1, 16)), [index // 2 for index in range(16)]), 0)
    assert in_pairs.low == pytest.approx(intervals.wilson(1.0, 8)[0])


def test_no_change_is_tango_s_interval_of_no_flips():
    change = np.zeros((5, 1, 40))
    change[:, :, 0], change[:, :, 1] = 1.0, -1.0
    cell = cell_mean(Axis(change), 0)
    assert cell.mean == 0 and cell.low == pytest.approx(-cell.high) and cell.high > 0.05


def test_scores_that_are_no_answers_have_student_s_interval():
    values = np.random.default_rng(0).normal(size=(5, 2, 30))
    cell = cell_mean(Axis(values), 1)
    effect = over_seeds_and_items(Axis(values).part(1))
    assert (cell.mean, cell.low, cell.high) == pytest.approx((effect.mean, *effect.interval()))


def test_one_seed_has_no_interval():
    assert np.isnan(cell_mean(Axis(np.zeros((1, 1, 16))), 0).low)


def test_an_interval_near_0_holds_the_truth_where_student_s_does_not():
    rng = np.random.default_rng(1)
    truth, held, students, studies = 0.02, 0, 0, 200
    for _ in range(studies):
        score = rng.normal(0, 0.6, 40) + rng.normal(0, 0.8, (5, 1, 40))
        axis = Axis((score < stats.norm.ppf(truth)).astype(float))
        cell = cell_mean(axis, 0)
        held += cell.low <= truth <= cell.high
        low, high = over_seeds_and_items(axis.part(0)).interval()
        students += low <= truth <= high
    assert held / studies >= 0.93 > 0.9 > students / studies
