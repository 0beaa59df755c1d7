"""Effects and intervals beside other people's: a mixed model, a paired bootstrap, Tango's limits.

Two one-sided tests, power and Holm are in test_verdicts.py; regressions and the analysis of
variance in test_models.py; the bootstrap of seeds and items in test_resampling.py.
"""

import numpy as np
import pytest
from scipy import stats

from lfl_jax.evals import intervals
from lfl_jax.statistics.effects import Part, over_seeds_and_items


def test_an_effect_over_seeds_and_items_is_the_mixed_model_s():
    """With random seeds and items REML is the mean squares' estimate where no variance is 0."""
    pandas = pytest.importorskip("pandas")
    models = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 0.5, (6, 1)) + rng.normal(0, 1, 18) + rng.normal(0, 1, (6, 18))
    seed, item = np.indices(x.shape)
    frame = pandas.DataFrame({"y": x.ravel(), "seed": seed.ravel(), "item": item.ravel()})
    # Crossed effects are variance components of one group that holds everything.
    components = {"seed": "0 + C(seed)", "item": "0 + C(item)"}
    model = models.MixedLM.from_formula(
        "y ~ 1", frame, groups=np.ones(x.size), vc_formula=components
    )
    fit = model.fit(reml=True)
    effect = over_seeds_and_items(Part(x))
    assert min(fit.vcomp) > 0.01
    assert effect.mean == pytest.approx(fit.params["Intercept"])
    assert effect.se == pytest.approx(fit.bse["Intercept"], rel=1e-3)


def test_the_error_over_items_is_a_paired_bootstrap_s():
    rng = np.random.default_rng(1)
    before, after = rng.normal(0, 1, 80), rng.normal(0.2, 1, 80)
    result = stats.bootstrap(
        (before, after),
        lambda x, y, axis: np.mean(y - x, axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        rng=np.random.default_rng(2),
    )
    # Seeds that agree add nothing: the error is that of the items alone.
    effect = over_seeds_and_items(Part(np.tile(after - before, (2, 1))))
    assert effect.se == pytest.approx(result.standard_error, rel=0.04)
    assert effect.interval() == pytest.approx(tuple(result.confidence_interval), abs=0.03)


@pytest.mark.parametrize(("gained", "lost", "n"), [(7, 1, 21), (0, 3, 40), (12, 12, 50), (1, 0, 9)])
def test_tango_s_interval_is_evalstats(gained, lost, n):
    resampling = pytest.importorskip("evalstats.core.resampling", reason="needs evalstats")
    after = np.array([1.0] * gained + [0.0] * lost + [1.0] * (n - gained - lost))
    before = np.array([0.0] * gained + [1.0] * lost + [1.0] * (n - gained - lost))
    # c: the correction for continuity, which Tango does not have.
    theirs = resampling.tango_scc_paired_ci(after, before, 0.05, c=0.0)
    assert intervals.tango(gained, lost, n) == pytest.approx(theirs, abs=1e-6)


def test_wilson_s_interval_is_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for correct, n in ((0, 16), (3, 16), (16, 16), (480, 1024)):
        theirs = proportion.proportion_confint(correct, n, method="wilson")
        assert intervals.wilson(correct / n, n) == pytest.approx(theirs, abs=1e-12)
