"""Variances of a simulation, estimated from its own simulated studies and from mean squares."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lfl_jax.errors import UserError
from lfl_jax.statistics import noise, probit, variances
from lfl_jax.statistics.calibration import (
    Design,
    MeasureModel,
    Shares,
    assumed,
    calibrate,
    from_record,
    power,
    simulate,
)
from lfl_jax.statistics.frontier import Arm, Axis

SHARES = Shares(item=0.3, arm_item=0.08, cell_item=0.05, seed=0.05, arm_seed=0.04, run=0.03)
MEANS = (0.2, 0.4, 0.6, 0.8)
LAB = Path(__file__).parents[2] / "results/studies/lab/calibration.json"
# Many seeds: what is tested is that nothing is biased, and few seeds say little of themselves.
BINARY = Design(40, MeasureModel(MEANS, 120, SHARES), MeasureModel(MEANS[:3], 120, SHARES))
SCORES = dataclasses.replace(BINARY.learning, deviations=(0.2, 0.4, 0.4, 0.6))
NORMAL = Design(40, SCORES, SCORES)


@pytest.mark.parametrize("design", [BINARY, NORMAL], ids=["right or wrong", "normal"])
def test_the_variances_of_a_simulation_are_those_that_were_put_in(design):
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(6):
        estimated = variances.design(*simulate(design, 0.0, rng))
        estimates.append(dataclasses.astuple(estimated.learning.shares))
    expected = dataclasses.astuple(SHARES)
    assert np.mean(estimates, axis=0) == pytest.approx(expected, abs=0.025)
    assert estimated.learning.means == pytest.approx(design.learning.means, abs=0.12)
    assert estimated.learning.deviations == pytest.approx(design.learning.deviations, rel=0.2)
    assert (estimated.seeds, estimated.learning.items) == (40, 120)


@pytest.mark.parametrize("design", [BINARY, NORMAL], ids=["right or wrong", "normal"])
def test_the_noise_width_is_the_noise_floor(design):
    rng = np.random.default_rng(1)
    floors = [
        noise.floor(simulate(design, 0.0, rng)[0].y.values.mean(axis=2)) ** 2 for _ in range(10)
    ]
    assert design.noise_width == pytest.approx(np.sqrt(np.mean(floors)), rel=0.06)


def test_covariances_are_the_means_over_all_pairs():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(3, 2, 5)), rng.normal(size=(3, 1, 5))
    moments = variances._moments((first, second))
    cells = np.concatenate((first, second), axis=1)
    pairs = {}
    for s in range(3):
        for t in range(3):
            for i in range(5):
                for j in range(5):
                    product = cells[s, 0, i] * cells[t, 2, j]
                    pairs.setdefault((s == t, i == j), []).append(product)
    means = {kind: np.mean(products) for kind, products in pairs.items()}
    apart = means[False, False]
    assert moments.same_answer[0, 2] == pytest.approx(means[True, True] - apart)
    assert moments.same_item[0, 2] == pytest.approx(means[False, True] - apart)
    assert moments.same_seed[0, 2] == pytest.approx(means[True, False] - apart)


def test_answers_have_the_covariance_of_the_bivariate_normal():
    for p, q, r in ((0.2, 0.7, 0.4), (0.9, 0.9, -0.3), (0.5, 0.5, 0.95)):
        a, b = stats.norm.ppf([p, q])
        both = stats.multivariate_normal([0, 0], [[1, r], [r, 1]]).cdf([a, b])
        found = probit.covariance(np.array([p]), np.array([q]), r)
        assert found == pytest.approx(both - p * q, abs=1e-5)
        assert probit.correlation(np.array([p]), np.array([q]), float(found[0])) == (
            pytest.approx(r)
        )
    # A quarter plus arcsin(r) / 2 pi is the share that agrees at even odds (Sheppard, 1899).
    even = np.array([0.5])
    assert probit.covariance(even, even, 0.6) == pytest.approx(np.arcsin(0.6) / (2 * np.pi))


def test_a_loss_against_a_base_that_missed_some_items_is_right_or_wrong():
    rng = np.random.default_rng(3)
    arms = simulate(assumed(), 0.0, rng)
    # Of the last 40 items the base was wrong: their loss is 0 or -1.
    base = np.ones(256)
    base[-40:] = 0
    losses = [Arm(arm.name, arm.x, Axis(arm.y.values - (1 - base))) for arm in arms]
    found, expected = variances.design(*losses), variances.design(*arms)
    assert found == expected and not found.forgetting.deviations


def test_items_of_one_cluster_become_one():
    rng = np.random.default_rng(4)
    arms = simulate(assumed(), 0.0, rng)
    labels = [index // 4 for index in range(256)]
    arms = [Arm(a.name, Axis(a.x.values, labels), Axis(a.y.values, labels)) for a in arms]
    design = variances.design(*arms)
    assert design.learning.items == 64 and design.learning.deviations
    assert design.learning.means == pytest.approx(arms[0].x.means())


def test_one_seed_has_no_variances():
    first, second = simulate(assumed(seeds=1), 0.0, np.random.default_rng(5))
    with pytest.raises(UserError, match="1 seeds and 256 items"):
        variances.design(first, second)


def test_a_larger_gap_is_found_more_often():
    width = assumed().noise_width
    small, large = power(assumed(), 0.01, (0.3 * width, 3 * width), studies=60)
    assert small.more < large.more and large.more >= 0.95
    assert large.gap == pytest.approx(3 * width) and large.refused == 0


def test_a_design_is_read_back_from_its_record():
    for design in (BINARY, NORMAL):
        assert from_record(json.loads(json.dumps(dataclasses.asdict(design)))) == design


@pytest.mark.parametrize(
    ("studies", "false", "coverage"),
    [
        (200, 0.1, (0.89, 1.0)),  # to within three standard errors
        pytest.param(2000, 0.06, (0.93, 0.97), marks=pytest.mark.slow),
    ],
)
def test_verdicts_with_the_lab_s_variances(studies, false, coverage):
    if not LAB.exists():
        pytest.skip("the lab study has not been calibrated: benchmarks/calibrate_study.py")
    report = json.loads(LAB.read_text())
    for arm in report["arms"].values():
        if "design" in arm:
            same = calibrate(from_record(arm["design"]), 0.0, report["margin"], studies)
            assert same.more + same.less <= false
            assert coverage[0] <= same.coverage <= coverage[1]
