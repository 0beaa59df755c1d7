"""d90 where it is planted, where no size of the study reaches it, and the claim of few directions."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from planted_grids import BASE_LEARNING, RATES, findings, grid

from lfl_jax.core import files
from lfl_jax.report.study import dimension_table
from lfl_jax.studies.claims import CLAIMS, intrinsic_dimension, variants
from lfl_jax.studies.claims.claim import Status
from lfl_jax.studies.records import run_measures
from lfl_jax.studies.traits import Traits

FULL_GAIN = 0.8
PEAK = np.array([0.3, 0.7, 1.0, 0.8, 0.2])  # over learning rates


def of_share(name, share, numbers, peak=PEAK, **options):
    """A method that gains this share of full finetuning's at its best rate."""
    learned = BASE_LEARNING + FULL_GAIN * share * peak
    forgets = 0.2 * np.arange(len(RATES))
    return grid(name, learned, forgets, trainable=float(numbers), noise=0.002, **options)


def planted(shares, weights=100_000, full=1.0, **options):
    """shares: {d: of full finetuning's gain}."""
    grids = [of_share(f"subspace_{d}", share, d, **options) for d, share in shares.items()]
    kinds = {one.arm.name: Traits("subspace", targets=("q",)) for one in grids}
    # the order of a study's arms is no order of d
    contrasts = ((grids[0].arm.name, "full"),)
    return findings(
        of_share("full", full, weights), *grids[::-1], traits=kinds, contrasts=contrasts
    )


def plain_d90(shares):
    """The first crossing, by a walk over neighbouring sizes in float64."""
    pairs = sorted(shares.items())
    for (d0, s0), (d1, s1) in itertools.pairwise(pairs):
        if s1 >= 0.9:
            return d0 * (d1 / d0) ** ((0.9 - s0) / (s1 - s0))
    raise AssertionError


SHARES = {16: 0.2, 64: 0.5, 256: 0.8, 1024: 1.0, 4096: 0.95}


def test_d90_is_where_it_was_planted_with_an_interval():
    dimension = intrinsic_dimension.measure(planted(SHARES))
    assert [arm.numbers for arm in dimension.subspaces] == [16, 64, 256, 1024, 4096]
    wanted = plain_d90(SHARES)
    assert wanted == pytest.approx(512)
    low, high = dimension.interval()
    assert low < wanted < high < 1.2 * low
    assert dimension.d90 == pytest.approx(wanted, rel=0.05)
    assert str(dimension).startswith("d90 = 5") and "of the 100,000 that full trains" in str(
        dimension
    )


def test_draws_are_interpolated_in_the_log_of_d_and_never_extrapolated():
    rng = np.random.default_rng(0)
    sizes = np.array([16, 64, 256, 1024])
    drawn = rng.uniform(0.3, 1.2, (200, 4))
    drawn[:, 0] = rng.uniform(0.1, 0.89, 200)
    drawn[:, 3] = rng.uniform(0.9, 1.2, 200)
    wanted = [plain_d90(dict(zip(sizes, row, strict=True))) for row in drawn]
    np.testing.assert_allclose(2 ** intrinsic_dimension.crossing(drawn, np.log2(sizes)), wanted)
    outside = np.array([[0.95, 0.5, 0.99, 1], [0.1, 0.2, 0.8, 0.7], [0.1, 0.2, 0.3, 0.4]])
    assert intrinsic_dimension.crossing(outside, np.log2(sizes)).tolist() == [4, 10, 10]


@pytest.mark.parametrize(
    ("shares", "reason", "status"),
    [
        ({16: 0.1, 64: 0.3, 2048: 0.6}, r"no d up to 2048 reaches 90% .* \(2048: 60%\)", "CONTRADICTED"),
        ({16: 0.1, 64: 0.3}, "no d up to 64 reaches", "UNDECIDED"),
        ({16: 0.97, 64: 1.0}, "the smallest d, 16, reaches 97%", "REPRODUCED"),
        ({2048: 0.97, 4096: 1.0}, "the smallest d, 2048, reaches", "UNDECIDED"),
    ],
)  # fmt: skip
def test_a_d90_outside_of_the_sizes_is_refused(shares, reason, status):
    answered = planted(shares)
    dimension = intrinsic_dimension.measure(answered)
    assert dimension.d90 is None and dimension.interval() == (None, None)
    checked = CLAIMS["few_directions"].check(answered)
    assert checked.status is Status[status]
    assert re.search(f"^d90 is not known: {reason}", checked.evidence)


@pytest.mark.parametrize(
    ("weights", "status"),
    [(100_000, "REPRODUCED"), (20_000, "CONTRADICTED"), (51_200, "UNDECIDED")],
)
def test_few_is_one_in_a_hundred(weights, status):
    checked = CLAIMS["few_directions"].check(planted(SHARES, weights))
    assert checked.status is Status[status] and checked.p is not None


def test_a_best_rate_at_the_edge_decides_nothing_unless_the_sweep_levels_off():
    rising = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    checked = CLAIMS["few_directions"].check(planted(SHARES, peak=rising))
    assert checked.status is Status.UNDECIDED
    assert "rate of subspace_256, subspace_1024 is the edge of a sweep" in checked.evidence
    for level in (np.array([0.2, 0.4, 0.6, 0.99, 1.0]), np.array([1.0, 0.99, 0.6, 0.4, 0.2])):
        checked = CLAIMS["few_directions"].check(planted(SHARES, peak=level))
        assert checked.status is Status.REPRODUCED


def test_without_subspaces_or_counts_nothing_is_asked():
    answered = planted(SHARES)
    no_full = dataclasses.replace(answered, traits=answered.traits | {"full": Traits("dora")})
    no_counts = {
        name: dataclasses.replace(one, measures={}) for name, one in answered.grids.items()
    }
    for one in (no_full, dataclasses.replace(answered, grids=no_counts)):
        assert intrinsic_dimension.measure(one) is None and not dimension_table.table(one).rows
        assert CLAIMS["few_directions"].check(one).status is Status.UNTESTED
    assert "learned nothing" in intrinsic_dimension.measure(planted(SHARES, full=-0.5)).reason


def test_the_table_has_other_methods_beside_them():
    answered = planted({64: 0.5, 256: 1.0})
    lora = of_share("lora", 0.95, 10_000)
    answered = dataclasses.replace(
        answered,
        grids=answered.grids | {"lora": lora},
        traits=answered.traits | {"lora": Traits("lora", 4)},
    )
    rows = {row[0]: row for row in dimension_table.table(answered).rows}
    assert list(rows) == ["subspace_64", "subspace_256", "lora", "full"]
    assert rows["lora"][1:4] == (10_000, 0.1, 1e-3)
    assert rows["lora"][4] == pytest.approx(0.95, abs=0.01)
    assert rows["lora"][5] < 0.95 < rows["lora"][6]
    assert rows["full"][4] == 1.0 and rows["full"][5] is None
    # a subspace is no variant of LoRA that would have to learn as much
    assert variants.variants_tie(answered).status is Status.UNTESTED


def test_how_many_numbers_trained_is_known_of_a_finished_run(tmp_path):
    files.write_json(tmp_path / "results.json", {"facts": {"trainable": 64}})
    assert run_measures.read(tmp_path) == {"trainable": 64}
