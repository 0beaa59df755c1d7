"""Mediation, learning rates, sensitivity and noise: planted answers, and statsmodels'."""

import numpy as np
import pytest

from lfl_jax.errors import UserError
from lfl_jax.statistics import learning_rates, mediation, noise, sensitivity
from lfl_jax.statistics.frontier import Axis

RATES = np.array([1e-4, 3e-4, 1e-3, 3e-3, 1e-2])


def runs(rng, method=0.0, slope=0.2, noise_sd=0.01):
    """Divergence, forgetting (5 seeds, 12 runs), and which runs are the first method's."""
    is_first = np.arange(12) < 6
    # The first method goes further from the base: without the divergence it seems to forget more.
    divergence = np.exp(rng.normal(size=(5, 12)) + is_first)
    forgetting = slope * np.log(divergence) + method * is_first + rng.normal(0, noise_sd, (5, 12))
    # One value a run: nothing here is scored by item.
    return Axis(divergence[:, :, None]), Axis(forgetting[:, :, None]), is_first


def test_a_method_that_only_moves_further_has_no_term_of_its_own():
    result = mediation.mediate(*runs(np.random.default_rng(0)))
    low, high = result.effect.interval()
    assert low < 0 < high and high - low < 0.05
    assert result.total.mean > 0.1
    assert result.r2_divergence > 0.98 and result.r2_both - result.r2_divergence < 0.01


def test_a_planted_term_is_found():
    low, high = mediation.mediate(*runs(np.random.default_rng(1), method=0.3)).effect.interval()
    assert low < 0.3 < high and low > 0.25


def test_a_seed_s_regression_is_statsmodels():
    api = pytest.importorskip("statsmodels.api")
    divergence, forgetting, is_first = runs(np.random.default_rng(2), method=0.1)
    x, forgetting_of = np.log(divergence.values[:, :, 0]), forgetting.values[:, :, 0]
    terms, shares = [], []
    for seed in range(5):
        design = np.stack([is_first.astype(float), x[seed], x[seed] ** 2], axis=1)
        fit = api.OLS(forgetting_of[seed], api.add_constant(design)).fit()
        terms.append(fit.params[1])
        shares.append(fit.rsquared)
    result = mediation.mediate(divergence, forgetting, is_first)
    assert result.effect.mean == pytest.approx(np.mean(terms))
    assert result.r2_both == pytest.approx(np.mean(shares))


def test_the_term_is_a_mixed_model_s_within_its_error():
    lm = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    divergence, forgetting, is_first = runs(np.random.default_rng(3), method=0.1)
    forgetting = Axis(forgetting.values + np.arange(5)[:, None, None])  # seeds differ
    x = np.log(divergence.values).ravel()
    design = np.stack([np.ones(60), np.tile(is_first, 5), x, x**2], axis=1).astype(float)
    fit = lm.MixedLM(forgetting.values.ravel(), design, np.repeat(np.arange(5), 12)).fit()
    result = mediation.mediate(divergence, forgetting, is_first)
    assert result.effect.mean == pytest.approx(fit.params[1], abs=2 * fit.bse[1])


@pytest.mark.parametrize("change", ["few", "zero"])
def test_too_few_runs_and_no_divergence_are_refused(change):
    divergence, forgetting, is_first = runs(np.random.default_rng(4))
    if change == "few":
        with pytest.raises(UserError, match="4 runs per seed; expected more than 4"):
            few = [Axis(axis.values[:, :4]) for axis in (divergence, forgetting)]
            mediation.mediate(*few, is_first[:4])
    else:
        divergence.values[0, 0] = 0.0
        with pytest.raises(UserError, match="no logarithm"):
            mediation.mediate(divergence, forgetting, is_first)


def sweep(rng, best=-2.8, rates=RATES, noise_sd=0.02):
    """Five seeds' scores, one value a run."""
    scores = -((np.log10(rates) - best) ** 2) + rng.normal(0, noise_sd, (5, len(rates)))
    return "lora", rates, Axis(scores[:, :, None])


def test_the_best_learning_rate_is_found_between_the_grid_s():
    found = learning_rates.optimum(sweep(np.random.default_rng(0)))
    low, high = found.interval()
    assert low < 10**-2.8 < high and high / low < 1.2
    assert found.best in (1e-3, 3e-3)


def test_the_interval_of_the_best_rate_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(120):
        low, high = learning_rates.optimum(sweep(rng, noise_sd=0.1)).interval()
        hits += low <= 10**-2.8 <= high
    assert 0.89 < hits / 120 <= 1.0


@pytest.mark.parametrize(("best", "side"), [(-4.5, "lower"), (-1.5, "higher")])
def test_a_best_rate_at_the_edge_is_refused(best, side):
    with pytest.raises(UserError, match=f"edge of its sweep .* add {side}"):
        learning_rates.optimum(sweep(np.random.default_rng(2), best))


def test_few_or_disordered_rates_are_refused():
    with pytest.raises(UserError, match="at least 3"):
        learning_rates.optimum(("lora", RATES[:2], Axis(np.zeros((5, 2, 1)))))
    with pytest.raises(UserError, match="ascending"):
        learning_rates.optimum(("lora", RATES[::-1], Axis(np.zeros((5, 5, 1)))))


def test_the_ratio_of_two_arms_best_rates():
    rng = np.random.default_rng(3)
    lora, full = sweep(rng, -2.5), sweep(rng, -3.5, RATES / 10)
    low, high = learning_rates.ratio(lora, full).interval()
    assert low < 1.0 < high and high - low < 0.2


def test_shares_of_variance_are_statsmodels_anova():
    pandas = pytest.importorskip("pandas")
    api = pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova")
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 0.1, (4, 3, 3, 5)) + np.arange(4)[:, None, None, None] * 0.3
    scores += np.array([0, 0.2, 0.3])[:, None, None]
    scores += np.array([0, 1, -1, 0.5, -0.5])  # what a seed does to all cells
    index = np.stack([axis.ravel() for axis in np.indices(scores.shape)])
    frame = pandas.DataFrame(dict(zip("abcs", index, strict=True)) | {"y": scores.ravel()})
    table = anova.anova_lm(api.ols("y ~ C(a) * C(b) * C(c) + C(s)", frame).fit())
    noise_ms = table.mean_sq["Residual"]
    total = table.sum_sq.sum() + noise_ms
    found = {share.factor: share.omega2 for share in sensitivity.of_variance("abc", scores)}
    for name in "abc":
        row = table.loc[f"C({name})"]
        expected = max(row.sum_sq - row.df * noise_ms, 0) / total
        assert found[name] == pytest.approx(expected)
    assert list(found)[:2] == ["a", "b"]


def test_shares_need_replicates():
    with pytest.raises(UserError, match="at least 2"):
        sensitivity.of_variance("ab", np.zeros((2, 2, 1)))


def test_the_noise_floor_is_the_deviation_over_seeds():
    x = np.random.default_rng(1).normal(0, 0.3, (500, 8)) + np.arange(8)
    assert noise.floor(x) == pytest.approx(0.3, rel=0.05)


def test_signal_to_noise():
    assert noise.signal_to_noise(np.array([1.0, 2.0, 3.0]), np.array([[1.9, 2.1]] * 3)) == (
        pytest.approx(1.0 / (np.std([1.9, 2.1], ddof=1) / 2.0))
    )


def test_items_that_a_method_treats_in_its_own_way_are_part_of_the_error_of_its_term():
    """Else a sample of items that one method happens to keep would speak for all items."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(120):
        divergence, forgetting, is_first = runs(rng)
        items = rng.normal(0, 0.5, (2, 1, 40))[np.where(is_first, 0, 1)].reshape(12, 40)
        scored = Axis(forgetting.values + items + rng.normal(0, 0.1, (5, 12, 40)))
        low, high = mediation.mediate(divergence, scored, is_first).effect.interval()
        hits += low <= 0 <= high
    assert 0.88 < hits / 120 <= 1.0


def test_the_divergence_s_items_are_part_of_the_error_of_the_term():
    rng = np.random.default_rng(6)
    divergence, forgetting, is_first = runs(rng, noise_sd=0.001)
    # Texts on which the first method goes further, more on some than on others.
    further = np.exp(rng.normal(0, 0.6, 30))[None, None] * is_first[None, :, None]
    by_text = Axis(divergence.values * (further + ~is_first[None, :, None]))
    narrow = mediation.mediate(
        Axis(by_text.values.mean(axis=2, keepdims=True)), forgetting, is_first
    )
    wide = mediation.mediate(by_text, forgetting, is_first)
    assert wide.effect.mean == pytest.approx(narrow.effect.mean)
    assert wide.effect.se > 3 * narrow.effect.se


def test_the_derivative_by_the_divergence_is_the_difference_quotient():
    rng = np.random.default_rng(9)
    x, y, is_first = rng.normal(size=9), rng.normal(size=9), np.arange(9) < 4

    def term(x):
        return mediation._weights(mediation._columns(x, is_first, 2)) @ y

    expected = [(term(x + shift) - term(x - shift)) / 2e-6 for shift in 1e-6 * np.eye(9)]
    found = mediation._slopes(mediation._columns(x, is_first, 2), y)
    assert found == pytest.approx(expected, rel=1e-5)


def test_methods_that_share_no_range_of_divergence_are_refused():
    divergence, forgetting, is_first = runs(np.random.default_rng(7))
    apart = Axis(np.where(is_first[None, :, None], 1e6, 1.0) * divergence.values)
    with pytest.raises(UserError, match="share no range of divergence"):
        mediation.mediate(apart, forgetting, is_first)


def test_the_interval_of_a_best_rate_knows_that_another_might_have_been_best():
    rng = np.random.default_rng(8)
    rates = 10.0 ** np.arange(-5, 0)
    # Flat at the top: which of the middle three is best is chance, and each has its own parabola.
    mean = np.array([0.0, 0.8, 0.82, 0.81, 0.3])
    widths, optima = [], []
    for _ in range(60):
        scores = mean + rng.normal(0, 0.15, (5, 5))
        if 0 < np.argmax(scores.mean(axis=0)) < 4:
            best = learning_rates.optimum(("lora", rates, Axis(scores[:, :, None])))
            widths.append(best.log10.se)
            optima.append(best.log10.mean)
    assert np.median(widths) > 0.7 * np.std(optima)


def test_signal_to_noise_of_log_probabilities_is_that_of_losses():
    losses = np.array([1.0, 2.0, 3.0]), np.array([[1.9, 2.1]] * 3)
    negative = noise.signal_to_noise(-losses[0], -losses[1])
    assert negative == pytest.approx(noise.signal_to_noise(*losses)) and negative > 0
