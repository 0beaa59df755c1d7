"""Leaving seeds out: of a mean it is Student's t, and pairs that share seeds are no more evidence."""

import math

import numpy as np
import pytest

from lfl_jax.statistics import jackknife
from lfl_jax.statistics.effects import over_seeds


def test_of_a_mean_it_is_student_s():
    values = np.random.default_rng(0).normal(size=6)
    found, wanted = jackknife.over(lambda seeds: float(values[seeds].mean()), 6), over_seeds(values)
    assert (found.mean, found.se, found.df) == pytest.approx((wanted.mean, wanted.se, wanted.df))


def test_pairs_by_hand():
    values = np.array([[np.nan, 1.0, 3.0], [1.0, np.nan, 5.0], [3.0, 5.0, np.nan]])
    found = jackknife.over_pairs(values)
    # Without each seed one pair is left: 5, 3 and 1.
    pseudo = 3 * 3.0 - 2 * np.array([5.0, 3.0, 1.0])
    assert found.mean == 3.0 and found.df == 2
    assert found.se == pytest.approx(np.std(pseudo, ddof=1) / math.sqrt(3))


def test_one_pair_has_no_interval():
    found = jackknife.over_pairs(np.array([[1.0, 0.4], [0.4, 1.0]]))
    assert found.mean == 0.4 and math.isnan(found.interval()[0])
    assert math.isnan(jackknife.over(lambda seeds: 1.0, 1).interval()[0])


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_intervals_of_pairs_cover_what_they_should(shared):
    """Subspaces of 5 seeds, near a common direction or random: 95 % of the intervals hold the
    truth, where the 10 pairs taken as independent would cover far less."""
    rng, size, studies = np.random.default_rng(1), 12, 600
    common = np.eye(size)[0]
    # How near a seed is to the common direction differs from seed to seed.
    near = shared * rng.uniform(0.6, 1.0, (studies, 5, 1))
    drawn = rng.normal(size=(studies, 5, size))
    drawn -= (drawn @ common)[..., None] * common * (shared > 0)
    drawn /= np.linalg.norm(drawn, axis=2, keepdims=True)
    vectors = near * common + np.sqrt(1 - near**2) * drawn
    squares = np.square(np.einsum("nsd,ntd->nst", vectors, vectors))

    truth = squares[:, *np.triu_indices(5, 1)].mean()
    inside = 0
    for table in squares:
        low, high = jackknife.over_pairs(table).interval()
        inside += low <= truth <= high
    assert 0.92 <= inside / studies <= 0.99
