"""Published claims: each rule says what was planted, and nothing where nothing can be said."""

import dataclasses

import numpy as np
import pytest
from lfl_jax.configs.studies import smoke
from planted_grids import RATES, SEEDS, findings, grid

from lfl_jax.evals.grading import pass_at_k
from lfl_jax.studies import grid as study_grid
from lfl_jax.studies import traits
from lfl_jax.studies.claims import CLAIMS, Result, best, check, claim
from lfl_jax.studies.claims.claim import Checked, Status
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Cell, Run
from lfl_jax.studies.traits import Traits

# Learning over five rates, best in the middle, and what a frontier makes of it.
FULL_LEARNS = np.array([0.4, 0.6, 0.8, 0.9, 0.7])
LORA_LEARNS = np.array([0.3, 0.5, 0.7, 0.8, 0.6])


def forgets(learned, more=0.0):
    """On one line for all methods: half of what was learned, and `more`."""
    return 0.5 * np.asarray(learned) + more


def statuses(*args, **options):
    return {result.name: result.checked.status for result in check(findings(*args, **options))}


def paper():
    """LoRA learns less, and forgets less at equal learning."""
    lora = grid("lora", LORA_LEARNS, forgets(LORA_LEARNS))
    return lora, grid("full", FULL_LEARNS, forgets(FULL_LEARNS, 0.1))


def one_line():
    """LoRA learns less, and forgets as much as full finetuning does where it learns as little."""
    lora = grid("lora", LORA_LEARNS, forgets(LORA_LEARNS))
    return lora, grid("full", FULL_LEARNS, forgets(FULL_LEARNS))


def test_what_the_paper_found_is_reproduced_where_it_is_planted():
    found = statuses(*paper())
    for name in ("learns_less", "forgets_less", "forgets_less_at_equal_learning"):
        assert found[name] is Status.REPRODUCED, name
    assert found["learning_rate_explains"] is Status.CONTRADICTED


@pytest.mark.parametrize("order", [("lora", "full"), ("full", "lora")])
def test_the_order_of_a_contrast_changes_nothing(order):
    found = statuses(*paper(), contrasts=(order,))
    assert found["forgets_less"] is found["forgets_less_at_equal_learning"] is Status.REPRODUCED
    assert found["learns_less"] is Status.REPRODUCED


def test_a_gap_that_closes_at_equal_learning_is_the_learning_rate_s():
    found = statuses(*one_line())
    assert found["forgets_less"] is Status.REPRODUCED
    assert found["forgets_less_at_equal_learning"] is Status.CONTRADICTED
    assert found["learning_rate_explains"] is Status.REPRODUCED


def test_without_a_gap_nothing_has_to_be_explained():
    lora = grid("lora", FULL_LEARNS, forgets(FULL_LEARNS), noise=0.004)
    full = grid("full", FULL_LEARNS, forgets(FULL_LEARNS), noise=0.004)
    found = statuses(lora, full)
    assert found["learning_rate_explains"] is Status.UNTESTED
    assert found["forgets_less"] is Status.CONTRADICTED


def test_without_lora_and_full_their_claims_are_not_tested():
    found = statuses(
        grid("dora", LORA_LEARNS, forgets(LORA_LEARNS)),
        grid("full", FULL_LEARNS, forgets(FULL_LEARNS)),
    )
    assert set(found.values()) == {Status.UNTESTED}


def test_noise_decides_nothing():
    lora = grid("lora", LORA_LEARNS + 0.09, forgets(LORA_LEARNS), noise=0.06, seed=1)
    found = statuses(lora, grid("full", FULL_LEARNS, forgets(FULL_LEARNS), noise=0.06, seed=1))
    assert found["learns_less"] is found["forgets_less_at_equal_learning"] is Status.UNDECIDED


def test_an_arm_that_could_learn_more_beyond_its_sweep_did_not_learn_less():
    rising = np.sort(LORA_LEARNS)
    results = check(findings(grid("lora", rising, forgets(rising)), paper()[1]))
    checked = results[0].checked
    assert checked.status is Status.UNDECIDED and "the edge of its sweep" in checked.evidence
    # Full finetuning at its edge could only widen the gap.
    rising = np.sort(FULL_LEARNS)
    results = check(findings(paper()[0], grid("full", rising, forgets(rising))))
    assert results[0].checked.status is Status.REPRODUCED


def test_an_arm_that_could_forget_more_beyond_its_sweep_did_not_forget_less():
    lora, full = paper()
    rising = np.sort(LORA_LEARNS)
    assert statuses(grid("lora", rising, forgets(rising)), full)["forgets_less"] is Status.UNDECIDED
    # Full finetuning at its edge could only widen the gap.
    rising = np.sort(FULL_LEARNS)
    full = grid("full", rising, forgets(rising, 0.1))
    assert statuses(lora, full)["forgets_less"] is Status.REPRODUCED


def test_contrasts_that_disagree_are_undecided():
    lora, full = paper()
    other = grid("lora_r64", FULL_LEARNS + 0.05, forgets(FULL_LEARNS))
    results = check(findings(lora, full, other, contrasts=(("lora", "full"), ("lora_r64", "full"))))
    assert results[0].checked.status is Status.UNDECIDED
    assert "do not all say so" in results[0].checked.evidence


def test_forgetting_over_the_rate():
    rising = np.linspace(0.1, 0.5, 5)
    lora = grid("lora", LORA_LEARNS, rising)
    found = statuses(lora, grid("full", FULL_LEARNS, rising[::-1]))
    assert found["lora_forgets_with_rate"] is Status.REPRODUCED
    assert found["full_forgets_with_rate"] is Status.CONTRADICTED


@pytest.mark.parametrize(
    ("factor", "status"),
    [(10.0, Status.REPRODUCED), (1.0, Status.CONTRADICTED), (3.0, Status.CONTRADICTED)],
)
def test_the_ratio_of_the_best_rates(factor, status):
    def learned(rates, best_rate):
        return 0.9 - 0.2 * (np.log10(rates) - np.log10(best_rate)) ** 2

    rates = np.array(RATES)
    full = grid("full", learned(rates, 1e-3), forgets(FULL_LEARNS), rates)
    lora_rates = rates * factor
    lora = grid("lora", learned(lora_rates, 1e-3 * factor), forgets(FULL_LEARNS), lora_rates)
    assert statuses(lora, full)["rate_ratio"] is status


def test_an_edge_leaves_the_ratio_open():
    lora, full = paper()
    rising = grid("lora", np.sort(LORA_LEARNS), forgets(LORA_LEARNS))
    assert statuses(rising, full)["rate_ratio"] is Status.UNDECIDED
    assert statuses(lora, full)["rate_ratio"] is Status.CONTRADICTED


@pytest.mark.parametrize(("more", "status"), [(0.0, "REPRODUCED"), (0.1, "CONTRADICTED")])
def test_whether_the_divergence_explains_it(more, status):
    """Forgetting is the log of the divergence; of one method it may be `more`."""
    forgotten = {"lora": [0.1, 0.25, 0.3, 0.45, 0.5], "full": [0.15, 0.2, 0.35, 0.4, 0.55]}
    grids = [
        grid(
            name,
            learned,
            np.array(forgotten[name]) + (more if name == "full" else 0),
            divergence=np.exp(np.array(forgotten[name]) / 0.2),
            noise=0.004,
        )
        for name, learned in (("lora", LORA_LEARNS), ("full", FULL_LEARNS))
    ]
    results = {result.name: result for result in check(findings(*grids))}
    checked = results["divergence_explains"].checked
    assert checked.status is Status[status] and "of the variance" in checked.evidence
    if not more:
        assert results["divergence_explains_more"].checked.status is Status.REPRODUCED


def test_without_a_divergence_its_claims_are_not_tested():
    found = statuses(*paper())
    assert found["divergence_explains"] is found["divergence_explains_more"] is Status.UNTESTED


def test_ranks():
    grids = [
        grid(f"lora_r{rank}", LORA_LEARNS + 0.05 * index, forgets(LORA_LEARNS) - 0.05 * index)
        for index, rank in enumerate((4, 16, 64))
    ]
    found = statuses(*grids)
    assert found["rank_orders_learning"] is Status.REPRODUCED
    assert found["rank_orders_forgetting"] is Status.CONTRADICTED
    assert statuses(*paper())["rank_orders_learning"] is Status.UNTESTED


def test_arms_that_differ_in_more_than_their_rank_are_no_family():
    lora = grid("lora_r4", LORA_LEARNS, forgets(LORA_LEARNS))
    replay = grid("lora_r64_replay", LORA_LEARNS, forgets(LORA_LEARNS))
    assert statuses(lora, replay)["rank_orders_learning"] is Status.UNTESTED


@pytest.mark.parametrize(
    ("by_modules", "by_rank", "status"),
    [(0.1, 0.03, Status.REPRODUCED), (0.03, 0.1, Status.CONTRADICTED)],
)
def test_the_order_of_sensitivities(by_modules, by_rank, status):
    grids, kinds = [], {}
    for m, targets in enumerate((("q", "v"), ("q", "k", "v", "o"))):
        for r, rank in enumerate((4, 64)):
            name = f"lora_{m}_r{rank}"
            kinds[name] = Traits("lora", rank, targets)
            learned = LORA_LEARNS + by_modules * m + by_rank * r
            grids.append(grid(name, learned, forgets(learned), noise=0.003))
    contrasts = (("lora_0_r4", "lora_1_r4"),)
    found = statuses(*grids, traits=kinds, contrasts=contrasts)
    assert found["sensitivity"] is status
    # A target with one rank alone, or arms at other rates, are no full grid.
    some = statuses(*grids[:3], traits=kinds, contrasts=contrasts)
    assert some["sensitivity"] is Status.UNTESTED


@pytest.mark.parametrize(("less", "status"), [(0.0, Status.REPRODUCED), (0.1, Status.CONTRADICTED)])
def test_whether_variants_tie(less, status):
    dora = grid("dora", LORA_LEARNS - less, forgets(LORA_LEARNS), noise=0.003)
    lora = grid("lora", LORA_LEARNS, forgets(LORA_LEARNS), noise=0.003)
    assert statuses(lora, dora)["variants_tie"] is status


@pytest.mark.parametrize(("more", "status"), [(0.1, "REPRODUCED"), (0.0, "CONTRADICTED")])
def test_whether_lora_regularises_more(more, status):
    lora, full = paper()
    decay = grid("full_decay", LORA_LEARNS, forgets(LORA_LEARNS, more), noise=0.004)
    dropout = grid("full_dropout", LORA_LEARNS, forgets(LORA_LEARNS, 0.1), noise=0.004)
    results = {
        one.name: one for one in check(findings(lora, decay, contrasts=(("lora", "full_decay"),)))
    }
    checked = results["regularises_more"].checked
    assert checked.status is Status[status] and "lora – full_decay (decay):" in checked.evidence
    # Every regularised arm counts, and only those.
    both = findings(lora, full, decay, dropout, contrasts=(("lora", "full"),))
    checked = {one.name: one.checked for one in check(both)}["regularises_more"]
    assert checked.status is (Status.UNDECIDED if not more else Status.REPRODUCED)
    assert (
        "lora – full_dropout (dropout):" in checked.evidence
        and "lora – full:" not in checked.evidence
    )


def test_without_a_regularised_arm_or_lora_that_claim_is_not_tested():
    lora, full = paper()
    assert statuses(lora, full)["regularises_more"] is Status.UNTESTED
    decay = grid("full_decay", LORA_LEARNS, forgets(LORA_LEARNS))
    assert statuses(full, decay)["regularises_more"] is Status.UNTESTED
    # LoRA with weight decay is no regularised full finetuning.
    assert (
        statuses(lora, grid("lora_decay", LORA_LEARNS, forgets(LORA_LEARNS)))["regularises_more"]
        is Status.UNTESTED
    )


PROBLEMS = 12


def with_answers(found, different):
    """Findings whose runs gave so many different answers, of 8 samples to each problem."""
    metric = next(one for one in pass_at_k.METRICS if one.name == "unique")
    rng = np.random.default_rng(0)

    def scores(name, count):
        counts = count + rng.normal(0, 0.05, PROBLEMS)
        records = [
            {"id": f"p{i}", "cluster": f"p{i}", "n": 8, "unique": x} for i, x in enumerate(counts)
        ]
        return Scores(name, {"humaneval": {"unique": metric.measure(records)[0]}})

    runs = [
        Run(name, cell.lr, seed, cell.step, scores(name, different[name]))
        for name, one in found.grids.items()
        for cell in one.cells
        for seed in one.seeds
    ]
    tasks = dict(found.base.tasks) | scores("base", 7.0).tasks
    return dataclasses.replace(
        found, base=dataclasses.replace(found.base, tasks=tasks), runs=tuple(runs)
    )


@pytest.mark.parametrize(
    ("lora", "full", "status"),
    [(6.5, 5.0, "REPRODUCED"), (5.0, 6.5, "CONTRADICTED"), (6.5, 6.5, "CONTRADICTED")],
)
def test_whether_lora_keeps_answers_more_diverse(lora, full, status):
    found = with_answers(findings(*paper()), {"lora": lora, "full": full})
    checked = {one.name: one.checked for one in check(found)}["diversity"]
    assert checked.status is Status[status]
    assert (
        checked.evidence.startswith("lora – full: humaneval/unique")
        and "margin 0.35" in checked.evidence
    )


def test_diversity_is_not_tested_without_samples_or_in_a_run_without_them():
    found = findings(*paper())
    results = {one.name: one for one in check(found)}
    assert "no task of the study counts the different answers" in results["diversity"].evidence
    asked = with_answers(found, {"lora": 6.0, "full": 5.0})
    last = asked.runs[-1]
    without = dataclasses.replace(last, scores=Scores("full-last", {}))
    others = [
        dataclasses.replace(run, scores=without.scores)
        for run in asked.runs
        if run.method == "full"
    ]
    loras = [run for run in asked.runs if run.method == "lora"]
    missing = dataclasses.replace(asked, runs=(*loras, *others))
    checked = {one.name: one.checked for one in check(missing)}["diversity"]
    assert checked.status is Status.UNTESTED and "has no humaneval/unique" in checked.evidence


def test_a_rate_is_chosen_by_the_other_seeds():
    one = grid("lora", LORA_LEARNS, forgets(LORA_LEARNS), noise=0.0)
    values = one.arm.x.values.copy()
    # By itself seed 2 would choose the first rate.
    values[2, 0] = 0.95
    x = dataclasses.replace(one.arm.x, values=values)
    arm = dataclasses.replace(one.arm, x=x)
    assert best.chosen_cells(dataclasses.replace(one, arm=arm), 100).tolist() == [3] * SEEDS


def test_methods_are_compared_at_a_length_that_both_have():
    lora, full = paper()
    short = dataclasses.replace(lora, cells=tuple(Cell(rate, 50) for rate in RATES))
    assert "no length in common" in check(findings(short, full))[0].checked.evidence


def test_holm_s_correction_takes_back_what_many_questions_find_by_chance():
    lora, full = paper()
    results = check(findings(lora, full))
    # The primary contrast was declared, and has nothing to be corrected for.
    by_name = {result.name: result for result in results}
    assert by_name["forgets_less_at_equal_learning"].p_holm is None
    for result in results:
        if result.p_holm is not None and result.checked.status is not Status.UNDECIDED:
            assert result.checked.p <= result.p_holm < 0.05


def test_a_decision_that_the_correction_takes_back(monkeypatch):
    decided = claim.Claim("c", "s", lambda _: Checked(Status.REPRODUCED, "e", 0.02))
    certain = claim.Claim("c", "s", lambda _: Checked(Status.REPRODUCED, "e", 0.001))
    nothing = claim.Claim("c", "s", lambda _: Checked(Status.UNDECIDED, "e", 0.5))
    # Four questions were asked, whatever they found.
    open_claims = {"a": decided, "b": nothing, "c": nothing, "d": certain}
    monkeypatch.setattr("lfl_jax.studies.claims.CLAIMS", open_claims)
    results: dict[str, Result] = {result.name: result for result in check(findings(*paper()))}
    assert results["d"].checked.status is Status.REPRODUCED
    assert results["a"].checked.status is Status.UNDECIDED
    assert "after Holm 0.06" in results["a"].evidence


def test_every_claim_has_a_status_and_says_why():
    results = check(findings(*paper()))
    assert [result.name for result in results] == list(CLAIMS)
    assert all(result.evidence and result.claim.source for result in results)


def test_traits_by_name():
    named = traits.of_names(
        ["full", "lora", "lora_r16", "LoRA-r=8-replay", "dora.r4", "full_linear"]
    )
    assert named["full"] == Traits("full") and named["lora"] == Traits("lora")
    assert named["lora_r16"] == Traits("lora", 16)
    assert named["LoRA-r=8-replay"] == Traits("lora", 8, rest="replay")
    assert named["dora.r4"] == Traits("dora", 4)
    decayed = traits.of_names(["full_decay_low"])["full_decay_low"]
    assert decayed == Traits("full", rest="decay low", regulariser="decay")
    assert named["full_linear"].kind == "full" and named["full_linear"] != named["full"]


def test_traits_by_config():
    values = smoke.get_config().to_dict()
    words = {"lora": "lora,r=2", "more": "lora,r=4", "dora": "dora,r=2", "full": "full"}
    values["arms"] = {name: {"words": text, "lr": (1e-3,)} for name, text in words.items()}
    values["arms"]["decayed"] = values["arms"]["lora"] | {
        "config": {"optim": {"weight_decay": 0.1}}
    }
    values["contrasts"] = (("lora", "full"),)
    by_arm = traits.of_runs(study_grid.expand(study_grid.read(values)))
    assert (by_arm["lora"].kind, by_arm["lora"].rank, by_arm["full"].kind) == ("lora", 2, "full")
    assert by_arm["full"].rank is None
    # Arms that differ in rank or kind alone have everything else in common.
    assert by_arm["lora"].rest == by_arm["more"].rest == by_arm["dora"].rest
    assert by_arm["decayed"].regulariser == "weight decay 0.1" and not by_arm["lora"].regulariser
    assert by_arm["lora"].rest not in (by_arm["full"].rest, by_arm["decayed"].rest)
    assert by_arm["lora"].differs_in(by_arm["decayed"]) == {"optim.weight_decay"}
    # alpha is 2 x rank where it is not written.
    assert by_arm["lora"].differs_in(by_arm["more"]) == {"adapter.rank", "adapter.alpha"}
    assert by_arm["lora"].settings["adapter.alpha"] == 4
