"""Directions that ranks and seeds share, and what they amplify: planted, and of trained changes."""

import csv
import dataclasses
import io
import math

import numpy as np
import pytest
from helpers import adapter_for
from lfl_jax.configs.studies import smoke
from rich.console import Console

from lfl_jax import study as command
from lfl_jax.analysis import subspaces as pairs
from lfl_jax.analysis import weight_changes
from lfl_jax.analysis.subspaces import Amplification
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.model import Model
from lfl_jax.studies import best_arms, directions, subspaces
from lfl_jax.studies.claims import claim
from lfl_jax.studies.claims import directions as claims
from lfl_jax.studies.directions import FACTOR, INPUTS, OTHER, OUTPUTS, SAME, WeightDirections

SEEDS, SIZE = 4, 400
REPRODUCED, CONTRADICTED = claim.Status.REPRODUCED, claim.Status.CONTRADICTED
UNDECIDED, UNTESTED = claim.Status.UNDECIDED, claim.Status.UNTESTED
# Table 7 of the paper: ||dW||, and of W in dW's directions, in its own first ones, in random ones.
PUBLISHED = {"lora4": (6.91, 0.32, 21.67, 0.02), "lora64": (3.57, 1.90, 37.71, 0.33)}


def basis(rng, count, near):
    """Directions of which the first ones have cos^2 `near` with common ones."""
    columns = rng.normal(size=(SIZE, count)) / math.sqrt(SIZE)
    for index, cosine in enumerate(near):
        columns[:, index] *= math.sqrt(1 - cosine)
        columns[index, index] = math.sqrt(cosine)
    return np.linalg.qr(columns)[0]


def planted(near=(0.95,), norms=PUBLISHED, ranks=(4, 64), seeds=SEEDS, sizes=(1.0, 1.0)):
    """Two ranks, `seeds` seeds and two layers; sizes: what norms are times, by rank."""
    rng, runs = np.random.default_rng(0), {}
    for arm, rank, size in zip(norms, ranks, sizes, strict=True):
        runs[arm] = []
        for _ in range(seeds):
            by_weight = {}
            for layer in range(2):
                u = basis(rng, min(rank, 8), near)
                noisy = np.array(norms[arm]) * size * np.exp(rng.normal(0, 0.02, 4))
                by_space = {FACTOR: u, INPUTS: u, OUTPUTS: u}
                one = WeightDirections("q", layer, by_space, Amplification(*noisy), rank)
                by_weight[f"layers/{layer}/attn/q"] = one
            runs[arm].append(by_weight)
    return directions.compare(runs, dict(zip(norms, ranks, strict=True)), range(seeds))


def statuses(compared):
    return {name: one.check(compared).status for name, one in claims.CLAIMS.items()}


def test_the_published_numbers_have_the_published_findings():
    assert set(statuses(planted()).values()) == {REPRODUCED}


@pytest.mark.parametrize(
    ("options", "refuted"),
    [
        ({"near": ()}, {"top_is_shared", "seeds_share"}),
        ({"near": (0.4,)}, {"top_is_shared"}),
        ({"near": (0.95, 0.95)}, {"others_are_not"}),
        # W has as much there as in its own first directions
        ({"norms": {a: (n[0], n[2], n[2], n[3]) for a, n in PUBLISHED.items()}},
         {"not_emphasised", "amplifies"}),
        # less than random directions
        ({"norms": {a: (n[0], n[3] / 2, n[2], n[3]) for a, n in PUBLISHED.items()}},
         {"above_random"}),
        ({"norms": dict(zip(PUBLISHED, reversed(PUBLISHED.values()), strict=True))},
         {"low_rank_amplifies_more"}),
    ],
)  # fmt: skip
def test_what_is_planted_otherwise_is_not_reproduced(options, refuted):
    found = statuses(planted(**options))
    assert {name for name, status in found.items() if status is CONTRADICTED} == refuted
    assert UNTESTED not in found.values()


def test_few_seeds_decide_nothing_and_one_rank_is_not_compared():
    alone = planted(seeds=1)
    assert {REPRODUCED} != set(statuses(alone).values()) >= {UNDECIDED, UNTESTED}
    assert [*directions.comparisons(alone)] == [("lora4", "lora64", SAME)]
    one = {"lora4": PUBLISHED["lora4"]}
    found = statuses(planted(norms=one, ranks=(4,), sizes=(1.0,)))
    untested = {name for name, status in found.items() if status is UNTESTED}
    assert untested == {"top_is_shared", "others_are_not", "low_rank_amplifies_more"}


def test_an_overlap_at_the_edge_is_undecided():
    checked = claims.CLAIMS["top_is_shared"].check(planted(near=(0.70,)))
    assert checked.status is UNDECIDED and "random 0.003" in checked.evidence
    assert "with other seeds" in checked.evidence and checked.p > 0.05


def test_similarity_over_seeds_and_pairs():
    compared = planted()
    found = directions.similarity(compared.of("lora4", "lora64", FACTOR), 1, 1, SAME)
    assert found.effect.df == SEEDS - 1 and found.effect.mean == pytest.approx(0.9, abs=0.05)
    assert found.random == 1 / SIZE
    by_seed = [
        np.mean([one.values[s, s, 0, 0] for one in compared.of("lora4", "lora64", FACTOR)])
        for s in range(SEEDS)
    ]
    assert found.effect.se == pytest.approx(np.std(by_seed, ddof=1) / math.sqrt(SEEDS))
    assert found.beyond.mean == found.effect.mean - found.random
    # With itself: pairs of other seeds alone, and no more degrees of freedom for being six.
    kinds = [*directions.comparisons(compared)]
    assert ("lora4", "lora4", OTHER) in kinds and ("lora4", "lora4", SAME) not in kinds
    seeds = directions.similarity(compared.of("lora64", "lora64", FACTOR), 1, 1, OTHER)
    assert seeds.effect.df == SEEDS - 1 and seeds.effect.mean == pytest.approx(0.9, abs=0.05)


def tuned(small, small_params, seed, rank, trained=True):
    adapter = adapter_for(
        small, small_params, seed=seed, rank=rank, targets=("q", "up"), trained=trained
    )
    return Model(params=small_params, adapter=adapter)


def test_directions_of_trained_changes(small, small_params):
    """The same numbers as comparing two changes by themselves."""
    models = {"low": [tuned(small, small_params, seed, 2) for seed in (1, 2)]}
    models["high"] = [tuned(small, small_params, seed, 3) for seed in (3, 4)]
    spectra = {}
    runs = {
        arm: [directions.of_run(small_params, model, 2, spectra) for model in tuned_models]
        for arm, tuned_models in models.items()
    }
    compared = directions.compare(runs, {"high": 3, "low": 2}, (0, 1))
    assert compared.arms == ("low", "high") and compared.modules == ["q", "up"]

    by_arm = {
        arm: [{c.name: c for c in weight_changes.of_model(small_params, m)} for m in of_arm]
        for arm, of_arm in models.items()
    }
    name = "layers/1/mlp/up"
    first, second = by_arm["low"][0][name], by_arm["high"][1][name]
    wanted = pairs.of_changes(first, second, 2, 2)
    for space, value in ((INPUTS, wanted.inputs), (OUTPUTS, wanted.outputs)):
        (overlap,) = compared.of("low", "high", space, "up", 1)
        assert overlap.values[0, 1, 1, 1] == pytest.approx(value, abs=1e-6)
    (overlap,) = compared.of("low", "high", FACTOR, "up", 1)
    u, v = (np.linalg.svd(c.factors[0])[0][:, :2] for c in (first, second))
    assert overlap.values[0, 1, 1, 1] == pytest.approx(pairs.similarity(u, v), abs=1e-5)

    (amplified,) = compared.amplified_by("high", "up", 1)
    assert amplified.directions == 3
    wanted = dataclasses.astuple(pairs.amplification_of(second, 3))
    assert dataclasses.astuple(amplified.by_seed[1]) == pytest.approx(wanted, rel=1e-5)


def test_a_change_of_nothing_has_no_directions(small, small_params):
    fresh = tuned(small, small_params, 1, 2, trained=False)
    with pytest.raises(UserError, match="the change of layers/0/attn/q is zero"):
        directions.of_run(small_params, fresh, 2, {})
    # Its factor A has some, which change nothing.
    change = next(weight_changes.of_model(small_params, fresh))
    with pytest.raises(UserError, match="the change of layers/0/attn/q is zero"):
        pairs.directions_of_a(change, 2)


ROWS = [
    ("lora", 1e-3, 40, 1.0, 0, 0.9),  # shorter
    ("lora", 1e-3, 80, 1.0, 0, 0.2),
    ("lora", 1e-3, 80, 1.0, 1, 0.3),
    ("lora", 2e-3, 80, 1.0, 0, 0.5),
    ("lora", 2e-3, 80, 1.0, 1, 0.4),
    ("lora", 2e-3, 80, 1.0, 2, 0.4),
    ("half", 2e-3, 80, 0.5, 0, 0.9),
    ("full", 1e-4, 80, 1.0, 1, 0.7),
    ("full", 1e-4, 80, 1.0, 0, 0.7),
]


def report(folder, rows=ROWS):
    head = "method,learning rate,steps,change,seed,learning,forgetting"
    lines = [",".join(map(str, (*row, 0.0))) for row in rows]
    files.write_text(folder / best_arms.RUNS, "\n".join([head, *lines]) + "\n")


def test_arms_at_their_best_rates_over_the_seeds_of_all(tmp_path):
    report(tmp_path)
    lora, full = best_arms.read(tmp_path)
    assert (lora.name, lora.rate, list(lora.folders)) == ("lora", 2e-3, [0, 1])
    assert lora.folders[1] == tmp_path / "runs/lora-0.002-80-s1"
    assert full.folders[0].name == "full-0.0001-80-s0"
    (alone,) = best_arms.read(tmp_path, ["lora"])
    assert list(alone.folders) == [0, 1, 2]


def test_studies_that_cannot_be_compared(tmp_path):
    with pytest.raises(UserError, match=r"has no report: report/tables/runs.csv is missing"):
        best_arms.read(tmp_path)
    report(tmp_path)
    with pytest.raises(UserError, match="no trained arm 'half' in .*; there are lora, full"):
        best_arms.read(tmp_path, ["half"])
    report(tmp_path, [ROWS[1], ("full", 1e-4, 80, 1.0, 7, 0.7)])
    with pytest.raises(UserError, match="arms lora, full share no seed"):
        best_arms.read(tmp_path)
    for flags, why in (
        ([], "expected the directory of a study"),
        (["a", "--directions=0"], "expected at least 1"),
        (["a", "--modules=q,w"], "no module 'w'; there are q, k"),
    ):
        with pytest.raises(UserError, match=why):
            subspaces.main(["subspaces", *flags])


def test_tables_figures_and_what_is_printed(tmp_path):
    compared = planted()
    subspaces.write(compared, tmp_path)
    with (tmp_path / "tables/subspace_similarity.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    top = [r for r in rows if r["first"] == "lora4" and r["second"] == "lora64" and r["k"] == "1"]
    # Two kinds of pairs, three spaces, and all weights, one module, two layers.
    assert len(top) == 2 * 3 * 4
    assert float(top[0]["95 % low"]) < float(top[0]["similarity"]) < float(top[0]["95 % high"])
    with (tmp_path / "tables/amplification.csv").open(newline="") as lines:
        amplified = next(csv.DictReader(lines))
    assert amplified["arm"] == "lora4" and amplified["layer"] == "all"
    assert float(amplified["factor"]) == pytest.approx(6.91 / 0.32, rel=0.05)
    assert {f.stem for f in (tmp_path / "figures").glob("*.pdf")} == {
        *("subspaces", "subspaces_along")
    }

    console = Console(width=100, record=True, file=io.StringIO())
    arms = [best_arms.Arm("lora4", 4e-3, {0: tmp_path})]
    subspaces.show(compared, arms, console)
    text = console.export_text()
    assert "lora4 at 0.004; seeds 0, 1, 2, 3" in text
    assert (
        "share their top direction, to more than one half. Reproduced here: phi(1, 1) 0.9" in text
    )


@pytest.mark.slow
def test_the_runs_of_a_study(tmp_path, capsys):
    """3 minutes."""
    folder = tmp_path / "smoke"
    command.main(["study", f"--config={smoke.__file__}", "--quiet", f"--workdir={folder}"])
    subspaces.main(["subspaces", str(folder), "--quiet", "--modules=q,v", "--directions=3"])
    assert "LoRA of a low and of a high rank" in capsys.readouterr().out
    with (folder / "report/tables/subspace_similarity.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {row["module"] for row in rows} == {"all", "q", "v"}
    assert {row["k"] for row in rows} == {"1", "2"}
    assert {(row["first"], row["second"]) for row in rows} >= {("lora", "full"), ("full", "full")}
