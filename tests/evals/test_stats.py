"""Means, clustered errors, paired differences."""

import math

import numpy as np
import pytest

from lfl_jax.errors import UserError
from lfl_jax.evals import stats


def column(records, total, weight=None):
    weights = [1.0 if weight is None else float(r[weight]) for r in records]
    parts = (
        [r["id"] for r in records],
        [r["cluster"] for r in records],
        [r[total] for r in records],
        weights,
    )
    return stats.Column(*map(tuple, parts))


def test_unclustered_error_is_sample_std_over_sqrt_n():
    x = [0.0, 1.0, 1.0, 0.0, 1.0]
    found = stats.mean(x, range(5))
    assert (found.mean, found.se) == (0.6, pytest.approx(np.std(x, ddof=1) / math.sqrt(5)))
    assert (found.n, found.clusters) == (5, 5)


def test_copies_of_an_item_add_nothing():
    x, clusters = [0.0, 1.0, 1.0, 0.0], ["a", "b", "c", "d"]
    once, thrice = stats.mean(x, clusters), stats.mean(x * 3, clusters * 3)
    assert thrice.se == pytest.approx(once.se)
    assert (thrice.n, thrice.clusters) == (12, 4)
    assert stats.mean(x * 3, range(12)).se < 0.7 * once.se


def test_two_clusters_by_hand():
    # mean 1; cluster sums of residuals: (-1 + 0) and (1 + 0), so sqrt(2/1 * 2) / 4
    found = stats.mean([0.0, 1.0, 2.0, 1.0], ["a", "a", "b", "b"])
    assert found.se == pytest.approx(0.5)


def test_ratio_of_sums():
    records = [
        {"id": i, "cluster": i, "nll": n, "tokens": t}
        for i, (n, t) in enumerate([(2.0, 1), (3.0, 4)])
    ]
    found = stats.estimate(column(records, "nll", "tokens"))
    # residuals nll - mean * tokens are 1 and -1: sqrt(2/1 * 2) / 5
    assert (found.mean, found.se) == (pytest.approx(1.0), pytest.approx(0.4))


def test_items_without_tokens_do_not_count():
    records = [
        {"id": i, "cluster": i, "nll": n, "tokens": t}
        for i, (n, t) in enumerate([(2.0, 1), (0.0, 0)])
    ]
    assert stats.estimate(column(records, "nll", "tokens")).mean == 2.0


def test_difference_pairs_items_whatever_their_order():
    before = [{"id": i, "cluster": i, "acc": float(i % 2)} for i in range(6)]
    after = [dict(r, acc=r["acc"] + 0.5) for r in reversed(before)]
    found = stats.difference(column(before, "acc"), column(after, "acc"))
    assert (found.mean, found.se) == (0.5, 0.0)
    assert stats.estimate(column(before, "acc")).se > 0.2


def test_difference_with_itself_is_exactly_zero():
    rng = np.random.default_rng(0)
    records = [
        {"id": i, "cluster": i // 2, "nll": float(x), "tokens": 3}
        for i, x in enumerate(rng.normal(size=9))
    ]
    same = column(records, "nll", "tokens")
    assert stats.difference(same, same) == stats.Estimate(0.0, 0.0, 9, 5, 0.0, 0.0)


def test_difference_of_other_items_is_refused():
    records = [{"id": i, "cluster": i, "acc": 1.0} for i in range(3)]
    with pytest.raises(UserError, match="not of the same items"):
        stats.difference(column(records, "acc"), column(records[:2], "acc"))
    with pytest.raises(UserError, match="not of the same items"):
        stats.difference(
            column(records, "acc"),
            column([*records[:2], {"id": 9, "cluster": 9, "acc": 1.0}], "acc"),
        )


def test_nothing_to_average():
    with pytest.raises(UserError, match="no items"):
        stats.mean([], [])


def test_one_cluster_has_no_error():
    assert math.isnan(stats.mean([1.0, 0.0], ["a", "a"]).se)


@pytest.mark.parametrize(
    ("mean", "se", "near"),
    [(0.3, 0.02, True), (0.32, 0.02, False), (0.1, 0.02, True), (0.9, math.nan, True)],
)
def test_near_chance(mean, se, near):
    assert stats.near_chance(stats.Estimate(mean, se, 10, 10), 0.25) is near
