"""Verdicts against statsmodels' two one-sided tests, power and Holm."""

import numpy as np
import pytest

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Effect, over_seeds
from lfl_jax.statistics.multiplicity import holm
from lfl_jax.statistics.verdicts import Verdict, decide, equivalence, minimal_detectable

X = np.random.default_rng(0).normal(0.02, 0.05, 6)


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [(0.2, Verdict.MORE), (-0.2, Verdict.LESS), (0.0, Verdict.EQUIVALENT), (0.06, Verdict.MORE)],
)
def test_a_verdict_is_where_the_interval_lies(mean, verdict):
    assert decide(Effect(mean, 0.01, 4.0, 5), margin=0.05).verdict is verdict


def test_what_is_neither_is_undecided_and_says_what_would_have_been_found():
    decision = decide(Effect(0.02, 0.04, 4.0, 5), margin=0.05)
    assert decision.verdict is Verdict.UNDECIDED
    assert decision.detectable > 0.04 * 2.776
    assert "0.05" in decision.reason


def test_certain_but_inside_the_margin_is_equivalent():
    decision = decide(Effect(0.01, 0.001, 4.0, 5), margin=0.05)
    assert decision.verdict is Verdict.EQUIVALENT
    assert decision.p_difference < 0.01


def test_a_single_seed_decides_nothing():
    decision = decide(over_seeds(np.array([3.0])), margin=0.05)
    assert decision.verdict is Verdict.UNDECIDED
    assert "at least 2" in decision.reason


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan")])
def test_a_margin_is_positive(margin):
    with pytest.raises(UserError, match="margin"):
        decide(Effect(0.0, 1.0, 4.0, 5), margin)


def test_equivalence_is_statsmodels_tost():
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    expected = weightstats.DescrStatsW(X).ttost_mean(-0.08, 0.08)[0]
    assert equivalence(over_seeds(X), 0.08) == pytest.approx(expected)


def test_the_detectable_effect_has_the_power_of_statsmodels():
    power = pytest.importorskip("statsmodels.stats.power")
    effect = over_seeds(X)
    size = minimal_detectable(effect.se, effect.df) / (effect.se * np.sqrt(len(X)))
    found = power.TTestPower().power(size, len(X), 0.05, alternative="larger")
    # One side of a two-sided test: the other side's rejections are below a millionth.
    assert power.TTestPower().power(size, len(X), 0.025, alternative="larger") == pytest.approx(0.8)
    assert found > 0.8


def test_holm_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    expected = multitest.multipletests(list(values.values()), method="holm")[1]
    assert list(holm(values).values()) == pytest.approx(expected)
    assert list(holm(values)) == list(values)


def test_holm_leaves_out_what_has_no_p_value():
    with_unknown = holm({"a": 0.01, "unknown": float("nan"), "c": 0.001})
    assert with_unknown["unknown"] != with_unknown["unknown"]
    assert (with_unknown["a"], with_unknown["c"]) == pytest.approx((0.01, 0.002))
