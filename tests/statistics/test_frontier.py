"""Gaps between frontiers: by hand, under a shift, at the edges of what is shared, and calibrated."""

import numpy as np
import pytest

from lfl_jax.errors import UserError
from lfl_jax.statistics.calibration import assumed, calibrate, simulate
from lfl_jax.statistics.frontier import Arm, Axis, Curve, gap, mean_gap, pareto


def arm(name, x, y, seeds=3, noise=0.0, rng=None):
    """Runs at these cells, one value per run."""
    values = [np.tile(np.asarray(v, float)[None, :, None], (seeds, 1, 1)) for v in (x, y)]
    if noise:
        values = [v + rng.normal(0, noise, v.shape) for v in values]
    return Arm(name, *(Axis(v) for v in values))


def test_the_gap_is_the_mean_height_between_the_curves():
    # Both reach 0.4 to 0.8: there the first rises from 0.4 to 0.8, the second is at 0.1.
    first = arm("a", [0.2, 0.5, 0.8], [0.2, 0.5, 0.8])
    second = arm("b", [0.4, 0.6, 1.0], [0.1, 0.1 + 1e-9, 0.1 + 2e-9])
    found = gap(first, second)
    assert found.effect.mean == pytest.approx(0.6 - 0.1, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.4, 0.8))


def test_the_gap_of_a_fine_grid_is_the_integral():
    x = np.linspace(0.1, 0.9, 400)
    curves = Curve(x, x**2), Curve(x, np.sqrt(x))
    expected = ((0.9**3 - 0.1**3) / 3 - (0.9**1.5 - 0.1**1.5) / 1.5) / 0.8
    assert mean_gap(*curves) == pytest.approx(expected, abs=1e-5)


def test_a_cell_that_another_beats_is_off_the_frontier():
    rng = np.random.default_rng(0)
    learning, forgetting = rng.random((2, 60))
    beaten = [
        any((learning >= x) & (forgetting <= y) & ((learning > x) | (forgetting < y)))
        for x, y in zip(learning, forgetting, strict=True)
    ]
    cells = pareto(learning, forgetting)
    assert sorted(cells) == [i for i, off in enumerate(beaten) if not off]
    assert np.all(np.diff(learning[cells]) > 0) and np.all(np.diff(forgetting[cells]) > 0)


def test_a_constant_shift_between_arms_has_an_interval_of_no_width():
    base, _ = simulate(assumed(), 0.0, np.random.default_rng(1))
    shifted = Arm("shifted", base.x, Axis(base.y.values + 0.1))
    low, high = gap(shifted, base).effect.interval()
    assert (low, high) == pytest.approx((0.1, 0.1), abs=1e-9)


def test_swapped_arms_have_the_opposite_gap():
    first, second = simulate(assumed(), 0.05, np.random.default_rng(2))
    there, back = gap(first, second).effect, gap(second, first).effect
    assert (there.mean, there.se) == pytest.approx((-back.mean, back.se))


def test_an_arm_that_folds_back_has_no_forgetting_at_a_divergence():
    # The highest rate went no farther than the lowest one, and forgot most.
    folded = arm("a", [1.0, 1.3, 1.4, 1.1], [0.1, 0.2, 0.4, 0.9])
    other = arm("b", [1.0, 1.2, 1.4], [0.1, 0.3, 0.5])
    for pair in ((folded, other), (other, folded)):
        with pytest.raises(
            UserError, match=r"a: its cell with the divergence 1.1 forgot 0.9, that"
        ):
            gap(*pair, matched="divergence")
    # The frontier over learning needs no such order.
    assert gap(folded, other).effect.mean


def test_noise_alone_folds_no_arm():
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        pair = [arm(name, np.arange(6.0), np.full(6, 0.1), 5, 0.02, rng) for name in "ab"]
        try:
            gap(*pair, matched="divergence")
        except UserError:
            refused += 1
    # 5 % of either of two arms, which forget alike at every divergence.
    assert refused <= 200 * 0.16


def test_at_matched_divergence_all_cells_count():
    # The last cell beats the one before it on a frontier; both are on the curve over KL.
    first = arm("a", [0.1, 0.2, 0.3], [0.1, 0.4, 0.4])
    second = arm("b", [0.1, 0.2, 0.3], [0.0, 0.0, 0.0])
    assert gap(first, second, matched="divergence").effect.mean == pytest.approx(0.325)


def test_arms_that_share_no_learning_are_refused():
    with pytest.raises(UserError, match="a and b share no range"):
        gap(arm("a", [0.1, 0.2], [0.1, 0.2]), arm("b", [0.5, 0.9], [0.1, 0.2]))


def test_one_cell_in_the_shared_range_is_too_few():
    with pytest.raises(UserError, match=r"b: 1 cell .* at least 2"):
        gap(arm("a", [0.1, 0.45, 0.5], [0.1, 0.2, 0.3]), arm("b", [0.4, 0.9], [0.1, 0.2]))


def test_verdicts_on_simulated_studies_keep_their_promise():
    same = calibrate(assumed(), planted=0.0, margin=0.05, studies=200)
    assert same.more + same.less <= 0.05
    assert 0.90 < same.coverage <= 0.99
    large = calibrate(assumed(), 3 * assumed().noise_width, margin=0.05, studies=60)
    assert large.more >= 0.95


@pytest.mark.slow  # a minute
@pytest.mark.parametrize(
    "design",
    [assumed(), assumed(arm_item=0.6), assumed(run=0.01), assumed(items=1024), assumed(seeds=8)],
)
def test_verdicts_on_two_thousand_simulated_studies(design):
    same = calibrate(design, planted=0.0, margin=0.05, studies=2000, seed=1)
    # Where the margin decides nothing this is 5 % itself, which 2,000 studies tell to within 1 %.
    assert same.more + same.less <= 0.06
    assert 0.93 <= same.coverage <= 0.97
