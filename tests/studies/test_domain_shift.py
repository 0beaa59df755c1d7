"""Targets at several distances: each against its own base; rules find what is planted."""

import dataclasses
import json

import numpy as np
import pytest
from lfl_jax.configs.studies import domain_shift
from planted_grids import RATES, findings, grid
from scipy.stats import entropy

from lfl_jax.analysis import unigrams
from lfl_jax.config import command_line
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.run_setup.shared import Shared
from lfl_jax.studies import arms, changes, outcome, traits
from lfl_jax.studies import grid as study_grid
from lfl_jax.studies.arms import Measure, Measures
from lfl_jax.studies.claims import CLAIMS, domain
from lfl_jax.studies.claims.claim import Status
from lfl_jax.studies.records import run_measures
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.running import measuring, target_distance
from lfl_jax.studies.running.execute import State, Study
from lfl_jax.studies.runs import Run
from lfl_jax.studies.traits import Traits

DISTANCES = (1.0, 2.0, 4.0)
LEARNS = np.array([0.2, 0.4, 0.6, 0.8, 0.9])


def targets(per_nat, learned=lambda nats: LEARNS, method="lora"):
    """An arm for each target, which forgets so much more for each nat of its distance."""
    return [
        grid(
            f"{method}_{index}",
            learned(nats),
            0.05 * LEARNS + per_nat * nats,
            base_target_nll=nats,
            noise=0.004,
        )
        for index, nats in enumerate(DISTANCES)
    ]


def check(name, grids, kinds=None):
    kinds = kinds or {one.arm.name: Traits("lora", 16) for one in grids}
    contrasts = ((grids[0].arm.name, grids[-1].arm.name),)
    return CLAIMS[name].check(findings(*grids, contrasts=contrasts, traits=kinds))


@pytest.mark.parametrize(
    ("per_nat", "status", "rise"),
    [
        (0.05, Status.REPRODUCED, "+0.1"),
        (-0.05, Status.CONTRADICTED, "-0.1"),
        (0.0, Status.CONTRADICTED, ""),
    ],
)
def test_whether_a_farther_target_forgets_more_at_equal_rates(per_nat, status, rise):
    grids = targets(per_nat)
    checked = check("farther_forgets_more", grids)
    assert checked.status is status
    # From the nearest target to the farthest, 3 nats.
    assert f"lora_2 – lora_0, by the slope over 3 targets: {rise}" in checked.evidence
    assert all(f"{rate:g} " in checked.evidence.partition("(at ")[2] for rate in RATES)


def test_a_target_of_another_method_is_of_another_family():
    grids = targets(0.05) + targets(0.05, method="full")
    kinds = {one.arm.name: Traits(one.arm.name.partition("_")[0]) for one in grids}
    evidence = check("farther_forgets_more", grids, kinds).evidence
    assert "full_2 – full_0" in evidence and "lora_2 – lora_0" in evidence
    apart = {one.arm.name: Traits("lora", rest=one.arm.name) for one in grids}
    assert check("farther_forgets_more", grids, apart).status is Status.UNTESTED


def test_replay_is_no_other_target():
    near, *_ = targets(0.05)
    replay = grid("lora_replay", LEARNS, 0.05 * LEARNS, base_target_nll=DISTANCES[0])
    assert check("farther_forgets_more", [near, replay]).status is Status.UNTESTED


@pytest.mark.parametrize(
    ("per_nat", "status"), [(0.05, Status.REPRODUCED), (0.0, Status.CONTRADICTED)]
)
def test_at_equal_learning_neighbours_are_compared_over_what_both_learned(per_nat, status):
    grids = targets(per_nat, lambda nats: LEARNS + 0.05 * nats)
    checked = check("farther_forgets_more_at_equal_learning", grids)
    assert checked.status is status and "lora_2 – lora_1: " in checked.evidence
    apart = targets(per_nat, lambda nats: LEARNS + 2 * nats)
    far = check("farther_forgets_more_at_equal_learning", apart)
    assert far.status is Status.UNTESTED and "share no range" in far.evidence


LOSS = Metric("nll", "nll", "loss", higher_is_better=False, **QUANTITY)
MEASURES = Measures(Measure("text", "nll"), Measure("text", "nll"))


def scores(name, losses):
    """A model's loss of every text; the ids are the same whatever the texts are."""
    records = [{"id": f"{i}", "cluster": f"{i}", "nll": loss} for i, loss in enumerate(losses)]
    (measured,) = LOSS.measure(records)
    contents = {"text": str(float(np.sum(losses)))}
    return Scores(name, {"text": {"nll": measured}}, contents=contents)


def of_target(loss, learned):
    """The base on a target, and two seeds of two rates, which learned so much of it."""
    tuned = [(lr, seed, loss - lr * learned) for lr in (1.0, 2.0) for seed in (0, 1)]
    return scores("base", loss), [(lr, seed, scores("run", left)) for lr, seed, left in tuned]


def two_targets():
    rng = np.random.default_rng(0)
    near, near_runs = of_target(rng.uniform(1, 2, 8), 0.1)
    far, far_runs = of_target(rng.uniform(5, 6, 8), 0.7)
    runs = [Run("near", lr, seed, 10, one) for lr, seed, one in near_runs]
    runs += [Run("far", lr, seed, 10, one, base=far) for lr, seed, one in far_runs]
    return near, runs


def test_learning_of_several_targets_is_since_each_one_s_base():
    base, runs = two_targets()
    by_method = arms.grids(base, runs, MEASURES)
    assert by_method["near"].arm.x.by_run() == pytest.approx(np.array([[0.1, 0.2]] * 2))
    assert by_method["far"].arm.x.by_run() == pytest.approx(np.array([[0.7, 1.4]] * 2))
    # One target alone is scored as it was: by its loss.
    alone = arms.grids(base, runs[:4], MEASURES)["near"].arm.x.by_run()
    before = base.tasks["text"]["nll"].estimate.mean
    assert alone == pytest.approx(np.array([[0.1, 0.2]] * 2) - before)


def test_every_change_is_against_the_base_on_the_run_s_own_items():
    base, runs = two_targets()
    found = changes.measure(base, runs, arms.grids(base, runs, MEASURES))
    by_cell = {(one.method, one.cell.lr): one for one in found}
    assert by_cell["far", 2.0].change.mean == pytest.approx(-1.4)
    assert (
        by_cell["far", 2.0].before.estimate.mean > 5 > 2 > by_cell["near", 1.0].before.estimate.mean
    )


def test_targets_are_scored_on_as_many_items():
    base, runs = two_targets()
    fewer = scores("base", np.ones(5))
    runs += [Run("few", 1.0, seed, 10, fewer, base=fewer) for seed in (0, 1)]
    with pytest.raises(UserError, match="numbers of items: near 8, far 8, few 5"):
        arms.grids(base, runs, MEASURES)


def write_run(folder, digest, loss):
    """The base's evaluation of one target, and the run's."""
    for when, nll in (("before", loss), ("after", loss / 2)):
        record = {"id": "a", "cluster": "a", "nll": nll, "tokens": 1, "bytes": 1, "words": 1}
        # General text is the same for all targets.
        for task, content in (("target_nll", digest), ("source_nll", "text")):
            header = {"settings": {"items": 1, "content": content}}
            lines = [json.dumps(one) + "\n" for one in (header, record)]
            files.write_text(folder / "evals" / when / f"{task}.jsonl", "".join(lines))


def test_a_run_that_was_scored_on_other_items_has_a_base_of_its_own(tmp_path):
    planned = study_grid.expand(study_grid.load(f"{domain_shift.__file__}:quick"))
    chosen = [run for run in planned if run.seed == 0 and run.lr == 1e-3 and "lora" in run.arm]
    study = Study(tmp_path, chosen)
    for run in chosen:
        # Arms 0, 100 and 75: the last two are given one target.
        target = "far" if run.arm.endswith("_0") else "near"
        write_run(study.run_folder(run), target, 4.0 if target == "far" else 1.0)
    states = dict.fromkeys((run.name for run in chosen), State.FINISHED)
    base = outcome._base(study, chosen[0])
    own = {run.method: run.base for run in outcome.read(study, states, base)}
    assert own["lora_0"] is None and own["lora_100"] is own["lora_75"]
    assert own["lora_75"].tasks["target_nll"]["nll"].estimate.mean == 1.0


def test_unigram_kl_is_scipy_s_of_the_smoothed_counts():
    rng = np.random.default_rng(0)
    target, source = rng.integers(0, 50, 400).tolist(), rng.integers(10, 70, 900).tolist()
    apart = unigrams.divergence(target, source)
    vocabulary = sorted({*target, *source})
    p, q = ([text.count(token) for token in vocabulary] for text in (target, source))
    assert apart.kl == pytest.approx(entropy(p, np.array(q) + unigrams.SMOOTHING))
    assert (apart.target_tokens, apart.source_tokens, apart.vocabulary) == (400, 900, len(p))
    with pytest.raises(ValueError, match="without tokens"):
        unigrams.divergence([], source)


def test_two_samples_of_one_text_are_as_far_as_the_null():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(100))
    first, second = (rng.choice(100, n, p=p).tolist() for n in (3000, 5000))
    apart = unigrams.divergence(first, second)
    # (V - 1) / 2 for each text, over its length.
    assert apart.null == pytest.approx(99 / 2 * (1 / 3000 + 1 / 5000), rel=0.2)
    assert apart.kl == pytest.approx(apart.null, rel=0.4)


def measured_distance(share):
    fields = {"data.shared": share, "data.size": 60}
    config = command_line.configured("lab:cpt", fields)
    return target_distance.measure(config, Shared())


def test_a_farther_language_of_the_lab_has_other_frequencies():
    found = [measured_distance(share) for share in (1.0, 0.0)]
    # The source's own language is as far as chance takes it.
    assert found[0].kl < 2 * found[0].null
    assert found[1].kl > found[0].kl + 0.2
    assert found[0].target_tokens == 60 * 30


def test_a_study_measures_its_targets_once_each(tmp_path, monkeypatch):
    config = study_grid.load(f"{domain_shift.__file__}:quick")
    runs = [run for run in study_grid.expand(config) if run.seed == 0]
    study, states = Study(tmp_path, runs), {run.name: State.FINISHED for run in runs}
    asked = []
    one = unigrams.divergence([1, 2], [1, 2])
    monkeypatch.setattr(
        target_distance, "_measure", lambda config, shared: asked.append(config.data.shared) or one
    )
    measuring.complete(config, study, states)
    assert sorted(asked) == [0.0, 0.75, 1.0]
    folder = study.run_folder(runs[0])
    assert run_measures.read(folder) == {"unigram_kl": one.kl, "unigram_kl_random": one.null}
    measuring.complete(config, study, states)
    assert len(asked) == 3, "what is there is not measured again"


def test_the_distance_is_among_the_predictors():
    kl = 0.1 * np.array(DISTANCES)
    grids = [
        dataclasses.replace(one, measures=one.measures | {"unigram_kl": np.full((5, 5), far)})
        for one, far in zip(targets(0.05), kl, strict=True)
    ]
    kinds = {one.arm.name: Traits("lora", 16) for one in grids}
    found = findings(*grids, contrasts=(("lora_0", "lora_1"),), traits=kinds).predictors
    for name in ("the base's loss on the target", "unigram KL of the target from source text"):
        assert found[name].r2.mean > 0.9
        assert found[name].null == pytest.approx(2 / 14)


def one_seed(place):
    """A study's runs of its first seed, and how many it has in all."""
    study = study_grid.load(place)
    runs = study_grid.expand(dataclasses.replace(study, seeds=study.seeds[:1]))
    return runs, len(runs) * len(study.seeds)


def test_arms_are_of_one_family_for_each_method():
    runs, count = one_seed(domain_shift.__file__)
    assert f"{count} runs of 9 s" in domain_shift.__doc__ and count == 200
    kinds = traits.of_runs(runs)
    assert len(set(map(domain._apart_from_data, kinds.values()))) == 2
    assert len({one.settings["data.shared"] for one in kinds.values()}) == 5
    cpt = {run.config.hash() for run in one_seed("configs/studies/lab.py:cpt")[0]}
    assert sum(run.config.hash() in cpt for run in runs) * 4 == 28


@pytest.mark.parametrize("word", ["quick", "smollm2"])
def test_its_other_sizes(word):
    runs, count = one_seed(f"{domain_shift.__file__}:{word}")
    assert count == 24 and len({run.config.data for run in runs}) == 3
