"""Why Holm and not max-T: what both do with the few seeds of a study.

python -m pytest -m slow tests/statistics/test_multiplicity.py      a quarter of a minute
"""

import itertools

import numpy as np
import pytest
from scipy import stats

from lfl_jax.statistics.multiplicity import holm

CONTRASTS, SEEDS = 6, 5


def values(rng, shift=0.0):
    """Of seeds and contrasts that share half of their variance; the first may have an effect."""
    x = rng.normal(size=(SEEDS, 1)) + rng.normal(size=(SEEDS, CONTRASTS))
    return x / np.sqrt(2) + shift * np.eye(CONTRASTS)[0]


def t_values(x):
    return np.abs(x.mean(axis=-2) / (x.std(axis=-2, ddof=1) / np.sqrt(SEEDS)))


def rejects_holm(x, rng):
    p = 2 * stats.t.sf(t_values(x), SEEDS - 1)
    return min(holm(dict(enumerate(p))).values()) <= 0.05


def rejects_with_correlations(x, rng):
    """max-T of a multivariate t with the correlations of these seeds."""
    spectrum, vectors = np.linalg.eigh(np.corrcoef(x.T))
    root = vectors * np.sqrt(np.maximum(spectrum, 0))
    scale = np.sqrt(rng.chisquare(SEEDS - 1, (400, 1)) / (SEEDS - 1))
    greatest = np.max(np.abs(rng.normal(size=(400, CONTRASTS)) @ root.T / scale), axis=1)
    return np.mean(greatest >= t_values(x).max()) <= 0.05


def rejects_resampled(x, rng):
    """max-T of seeds drawn with replacement (Westfall and Young, 1993)."""
    drawn = (x - x.mean(axis=0))[rng.integers(0, SEEDS, (400, SEEDS))]
    # A seed drawn five times has no deviation.
    with np.errstate(divide="ignore", invalid="ignore"):
        greatest = np.nan_to_num(t_values(drawn), posinf=np.inf).max(axis=1)
    return np.mean(greatest >= t_values(x).max()) <= 0.05


def rate(rejects, shift=0.0, studies=1200):
    rng = np.random.default_rng(0)
    return np.mean([rejects(values(rng, shift), rng) for _ in range(studies)])


@pytest.mark.slow
def test_with_five_seeds_holm_keeps_its_promise_and_max_t_does_not():
    assert rate(rejects_holm) <= 0.06
    assert rate(rejects_with_correlations) > 0.065
    # Resampled seeds keep it, and find hardly anything.
    assert rate(rejects_resampled) <= 0.02
    assert rate(rejects_resampled, shift=2.0) < 0.5 * rate(rejects_holm, shift=2.0)


def test_flipped_signs_of_five_seeds_never_reach_five_percent():
    """Permutations need more seeds: the least p-value is 2 of the 2^5 ways."""
    x = 1 + 0.01 * np.random.default_rng(0).normal(size=(SEEDS, 1))
    flips = [
        t_values(x * np.array(s)[:, None])[0] for s in itertools.product((1, -1), repeat=SEEDS)
    ]
    assert np.mean(np.array(flips) >= t_values(x)[0] - 1e-9) == 2 / 2**SEEDS > 0.05
