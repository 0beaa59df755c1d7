"""Predictors of forgetting that are measured on weights, and claims about them, where they are
planted."""

import dataclasses

import numpy as np
import pytest
from planted_grids import RATES, SEEDS, findings, grid

from lfl_jax.report.study import figures as drawing
from lfl_jax.report.study import tables
from lfl_jax.statistics.effects import Effect
from lfl_jax.studies import arms, predictors
from lfl_jax.studies.claims import CLAIMS, curvature
from lfl_jax.studies.claims.claim import Status
from lfl_jax.studies.points import Point
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Cell, Run
from lfl_jax.studies.traits import Traits

LEARNS = np.array([0.4, 0.6, 0.8, 0.9, 0.7])
NORMS = np.array([0.01, 0.02, 0.05, 0.1, 0.2])
SEED_NOISE = np.random.default_rng(0).normal(0, 0.05, (SEEDS, len(RATES)))


def forgets(norms):
    return 0.1 + 0.1 * np.log(norms / NORMS[0])


def two(measures, **options):
    """LoRA and full finetuning: measures(norms) of each, forgetting being of the log norm."""
    return [
        grid(name, LEARNS, forgets(norms), noise=0.003, **measures(norms), **options)
        for name, norms in (("lora", NORMS), ("full", 1.7 * NORMS))
    ]


def explained(*grids):
    return findings(*grids).predictors


def test_a_measure_that_is_planted_explains_all_and_another_does_not():
    found = explained(
        *two(lambda norms: {"relative_norm": norms, "k90": 30 + 0 * norms + SEED_NOISE})
    )
    assert found["log relative norm of dW"].r2.mean > 0.98
    assert found["k90 of dW"].r2.mean < 0.5 < found["log relative norm of dW"].interval()[0]
    assert found["log relative norm of dW"].null == pytest.approx(2 / 9)
    assert found[predictors.METHOD].null == pytest.approx(1 / 9)


def test_predictors_are_compared_on_the_same_runs():
    """What an arm lacks, what is the same everywhere, and what has no logarithm is none."""
    lora, full = two(lambda norms: {"relative_norm": norms, "base_target_nll": 0 * norms + 1.5})
    assert "the base's loss on the target" not in explained(lora, full)
    assert "log relative norm of dW" not in explained(lora, dataclasses.replace(full, measures={}))
    zero = dataclasses.replace(full, measures={"relative_norm": 0 * full.measures["relative_norm"]})
    assert "log relative norm of dW" not in explained(lora, zero)


@pytest.mark.parametrize("values", [2, 12])
def test_the_null_is_what_noise_explains(values):
    rng = np.random.default_rng(values)
    x = np.tile(np.repeat(rng.normal(size=values), 12 // values), (4000, 1))
    shares = predictors._r2_by_seed(x, rng.normal(size=x.shape))
    assert shares.mean() == pytest.approx(predictors._null(x), abs=0.01)


def test_the_tables_hold_them():
    found = findings(*two(lambda norms: {"relative_norm": norms, "intruders": 100 * norms}))
    rows = {row[0]: row for row in tables.predictors(found).rows}
    assert rows["log relative norm of dW"][-1] == pytest.approx(2 / 9)
    table = tables.measures_of_runs(found)
    assert table.columns[-3:] == ("relative norm of dW", "intruders", "forgetting")
    assert len(table.rows) == 2 * SEEDS * len(RATES) and table.rows[0][-3] == NORMS[0]
    assert not tables.measures_of_runs(findings(*two(lambda _: {}))).rows


def test_a_grid_has_the_measures_that_all_its_runs_have(monkeypatch):
    monkeypatch.setattr(arms, "_learned", lambda base, run, measure: np.zeros(2))
    monkeypatch.setattr(arms, "_forgotten", lambda base, run, measure: np.zeros(2))
    found = findings(*two(lambda _: {}))
    runs = [
        Run("lora", lr, seed, 10, Scores("r", {}), measures={"k90": 10 * lr + seed} | more)
        for lr, more in ((0.1, {"frobenius": 1.0}), (0.2, {}))
        for seed in (0, 1, 2)
    ]
    measures = arms.grids(found.base, runs, found.question.measures)["lora"].measures
    assert measures.keys() == {"k90"}
    assert measures["k90"].tolist() == [[1, 2], [2, 3], [3, 4]]


def check(name, *grids, **options):
    return CLAIMS[name].check(findings(*grids, **options))


@pytest.mark.parametrize("planted", ["divergence", "norm"])
def test_whether_distances_explain_less(planted):
    """Forgetting is of the divergence or of the norm; the other is of the rate, with noise."""
    noisy = np.exp(20 * SEED_NOISE)
    norms = noisy if planted == "divergence" else NORMS
    far = NORMS if planted == "divergence" else NORMS[::-1] ** 0.01 + np.array([0, 0.3, 0, 0.3, 0])
    grids = [
        grid(
            name,
            LEARNS,
            forgets(NORMS),
            noise=0.003,
            divergence=far,
            relative_norm=norms,
            k90=noisy,
        )
        for name in ("lora", "full")
    ]
    if planted == "norm":
        for one in grids:
            one.measures.pop("k90")
    checked = check("distances_explain_less", *grids)
    assert checked.status is (Status.REPRODUCED if planted == "divergence" else Status.CONTRADICTED)
    assert "R² less that of the log relative norm of dW" in checked.evidence


@pytest.mark.parametrize(
    ("rank", "random", "status"),
    [
        (300, 500, Status.REPRODUCED),
        (40, 500, Status.CONTRADICTED),
        (3000, 5000, Status.CONTRADICTED),
        (40, 60, Status.UNDECIDED),  # a matrix of which no change could have a tenfold rank
    ],
)
def test_the_rank_of_full_finetuning_s_change(rank, random, status):
    shares = np.exp(SEED_NOISE / 5)
    lora = grid("lora", LEARNS, forgets(NORMS), k90=10 * shares, k90_random=0 * shares + 14)
    full = grid(
        "full", LEARNS, forgets(NORMS), k90=rank * shares[::-1], k90_random=0 * shares + random
    )
    checked = check("rank_of_change", lora, full)
    assert checked.status is status and f"a random change {random:.3g}" in checked.evidence


@pytest.mark.parametrize(
    ("per_intruder", "status"), [(0.004, Status.REPRODUCED), (0.0, Status.CONTRADICTED)]
)
def test_intruders_at_an_equal_norm(per_intruder, status):
    rates = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
    norms = np.array([0.01, 0.02, 0.04, 0.05, 0.1, 0.15, 0.2])
    # They grow with the norm, and with something else.
    intruders = np.rint(10 + 200 * norms + np.array([6, 0, 12, 3, 0, 9, 12]))
    forgotten = forgets(norms) + per_intruder * intruders
    learned = np.interp(norms, NORMS, LEARNS)
    lora = grid("lora", learned, forgotten, rates, noise=0.002,
                intruders=intruders, intruders_random=3 + 0 * norms, relative_norm=norms)  # fmt: skip
    full = grid("full", LEARNS, forgets(NORMS))
    checked = check("intruders_forget", lora, full)
    assert checked.status is status and "random changes of these norms: 3" in checked.evidence
    same = dataclasses.replace(
        lora, measures=lora.measures | {"intruders": 0 * lora.measures["intruders"]}
    )
    assert check("intruders_forget", same, full).status is Status.UNDECIDED


def curved(eigenvalues, best_rates, noise=0.003):
    """An arm for each pair: a parabola over its own sweep, which the best rate is inside of."""
    grids = []
    for index, (eigenvalue, rate) in enumerate(zip(eigenvalues, best_rates, strict=True)):
        rates = rate * np.array([0.08, 0.3, 1.1, 3.0, 9.0])
        learned = 0.9 - 0.2 * np.log10(rates / rate) ** 2
        name = f"arm{index}"
        grids.append(
            grid(
                name,
                learned,
                forgets(NORMS),
                tuple(rates),
                noise=noise,
                curvature=eigenvalue + 0 * rates,
            )
        )
    return grids


EIGENVALUES = np.array([1.0, 4.0, 20.0, 100.0])


@pytest.mark.parametrize(
    ("power", "status"), [(-0.5, Status.REPRODUCED), (0.5, Status.CONTRADICTED)]
)
def test_the_best_rate_over_the_curvature(power, status):
    contrasts = (("arm0", "arm1"),)
    grids = curved(EIGENVALUES, 1e-3 * EIGENVALUES**power)
    checked = check("curvature_sets_rate", *grids, contrasts=contrasts)
    assert checked.status is status and "0.042 of the ways to exchange" in checked.evidence
    # Three arms can be in order by chance, one time in six.
    fewer = check("curvature_sets_rate", *grids[:3], contrasts=contrasts)
    assert fewer.status is Status.UNDECIDED and fewer.p == pytest.approx(1 / 6)
    assert check("curvature_sets_rate", *grids[:2]).status is Status.UNDECIDED


def test_the_figure_of_it_has_every_arm_and_the_slope():
    grids = curved(EIGENVALUES, 1e-3 * EIGENVALUES**-0.5)
    planted = findings(*grids, contrasts=(("arm0", "arm1"),))
    figure = drawing.curvature(planted)
    assert [row[:2] for row in figure.data.rows] == [
        (f"arm{index}", pytest.approx(x)) for index, x in enumerate(EIGENVALUES)
    ]
    axes = figure.page.axes[0]
    line = next(one for one in axes.lines if str(one.get_label()).startswith("slope -0.5"))
    (x0, x1), (y0, y1) = line.get_data()
    assert np.log(y1 / y0) / np.log(x1 / x0) == pytest.approx(-0.5, abs=0.05)
    assert drawing.curvature(findings(*two(lambda _: {}))) is None


def test_unrelated_rates_decide_nothing():
    grids = curved(EIGENVALUES, [1e-3, 5e-3, 5e-4, 2e-3])
    checked = check("curvature_sets_rate", *grids, contrasts=(("arm0", "arm1"),))
    assert checked.status is Status.UNDECIDED and checked.p > 0.05


def test_orders_of_many_arms_are_drawn():
    x = np.linspace(0, 1, 10)
    rates = [Effect(float(y), 0.1, 4.0, 5) for y in -x]
    many = curvature.Arms(tuple("abcdefghij"), x, tuple(rates))
    assert many.chance_of(many.slope().mean) < 1e-3
    assert many.chance_of(-1e-9) == pytest.approx(0.5, abs=0.02)


def test_what_was_not_measured_is_not_tested():
    names = ("distances_explain_less", "rank_of_change", "intruders_forget", "curvature_sets_rate")
    found = [check(name, *two(lambda _: {})) for name in names]
    assert {one.status for one in found} == {Status.UNTESTED}
    assert "weights = True" in found[1].evidence and "curvature > 0" in found[3].evidence


@pytest.mark.parametrize(
    ("random", "status"), [(0.0, Status.REPRODUCED), (-0.15, Status.CONTRADICTED)]
)
def test_intruders_scaled_down_against_random_directions(random, status):
    """Without its intruders a run forgets .15 less; without random directions, as planted."""
    lora = grid("lora", LEARNS, forgets(NORMS), noise=0.003)
    changes = {"intruders": -0.15, "random_directions": random}
    derived = []
    for name, change in changes.items():
        # Two factors of one rate, and 1, which is the run itself.
        factors, forgotten = (0.0, 0.5, 1.0), 0.4 + change * np.array([1.0, 0.5, 0.0])
        one = grid(name, LEARNS[:3], forgotten, RATES[:3], noise=0.003)
        cells = tuple(Cell(1e-3, 100, Point(name, factor)) for factor in factors)
        derived.append(dataclasses.replace(one, cells=cells))
    kinds = {one.arm.name: Traits("derived", rest="lora-0.001-100-s0") for one in derived}
    options = {"contrasts": (("lora", "intruders"),), "traits": kinds}
    checked = check("intruders_cause", lora, *derived, **options)
    assert checked.status is status and "scaled to 0, 0.5" in checked.evidence
    assert check("intruders_cause", lora, derived[0], **options).status is Status.UNTESTED
