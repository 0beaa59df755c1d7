"""A trend over studies: known lines, statsmodels' weighted least squares, and what is refused."""

import numpy as np
import pytest
import statsmodels.api as sm

from lfl_jax.errors import UserError
from lfl_jax.statistics.meta_regression import slope


def test_a_line_is_found_and_errors_alone_make_its_interval():
    x, errors = np.array([18.0, 20.0, 22.0, 23.0]), np.full(4, 0.1)
    effect = slope(x, 0.5 - 0.03 * x, errors)
    assert effect.mean == pytest.approx(-0.03)
    assert effect.se == pytest.approx(0.1 / np.sqrt(np.sum((x - x.mean()) ** 2)))
    assert (effect.df, effect.seeds) == (2, 4)


def test_scatter_beyond_the_errors_is_that_of_weighted_least_squares():
    draws = np.random.default_rng(0)
    x, errors = draws.uniform(18, 24, 9), draws.uniform(0.01, 0.05, 9)
    y = 0.2 - 0.02 * x + draws.normal(0, 0.3, 9)
    fit = sm.WLS(y, sm.add_constant(x), weights=1 / errors**2).fit()
    effect = slope(x, y, errors)
    assert effect.mean == pytest.approx(fit.params[1])
    assert effect.se == pytest.approx(fit.bse[1])
    assert effect.interval() == pytest.approx(tuple(fit.conf_int()[1]))


@pytest.mark.parametrize(
    ("x", "errors", "why"),
    [
        ([1.0, 2.0], [0.1, 0.1], "2 studies"),
        ([1.0, 1.0, 1.0], [0.1, 0.1, 0.1], "the same value, 1"),
        ([1.0, 2.0, 3.0], [0.1, 0.0, 0.1], "no standard error"),
    ],
)
def test_what_has_no_trend_is_refused(x, errors, why):
    with pytest.raises(UserError, match=why):
        slope(np.array(x), np.zeros(len(x)), np.array(errors))
