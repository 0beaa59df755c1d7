"""Claims about one setting and about ranks of the change: each rule says what was planted."""

import dataclasses

import numpy as np
import pytest
from planted_grids import RATES, findings, grid

from lfl_jax.studies.claims import CLAIMS
from lfl_jax.studies.claims.claim import Status
from lfl_jax.studies.points import Point
from lfl_jax.studies.runs import Cell
from lfl_jax.studies.traits import Traits

LEARNS = np.array([0.3, 0.5, 0.7, 0.8, 0.6])
ALL = ("q", "k", "v", "o", "gate", "up", "down")
PLAIN = {
    "adapter.init": "b_zero",
    "adapter.rank": 4,
    "adapter.alpha": 8.0,
    "adapter.targets": ALL,
    "data.source": "new",
    "optim.name": "adamw",
    "optim.b1": 0.9,
    "penalty.l2": 0.0,
    "penalty.non_target_kl": 0.0,
}


def forgets(learned, more=0.0):
    return 0.5 * np.asarray(learned) + more


def trait(kind="lora", **settings):
    """settings: names with "_" for the first "."."""
    changed = PLAIN | {name.replace("_", ".", 1): value for name, value in settings.items()}
    return Traits(kind, changed["adapter.rank"], tuple(changed["adapter.targets"]), "", "", changed)


def check(claim, arms, contrasts=()):
    """arms: {name: (its grid's learning, what it forgets more, its traits)}."""
    grids = [
        grid(name, learned, forgets(learned, more), noise=0.003)
        for name, (learned, more, _) in arms.items()
    ]
    kinds = {name: traits for name, (_, _, traits) in arms.items()}
    return CLAIMS[claim].check(findings(*grids, traits=kinds, contrasts=contrasts))


SETTINGS = {
    "attention_learns_less": {"adapter_targets": ("q", "k", "v", "o")},
    "mlp_learns_as_all": {"adapter_targets": ("gate", "up", "down")},
    "alpha_learns_more": {"adapter_alpha": 2.0},
    "lion_learns_more": {"optim_name": "lionw", "optim_b1": 0.95},
}


@pytest.mark.parametrize(
    ("claim", "more", "status"),
    [
        ("attention_learns_less", -0.1, "REPRODUCED"),
        ("attention_learns_less", 0.0, "CONTRADICTED"),
        ("mlp_learns_as_all", 0.0, "REPRODUCED"),
        ("mlp_learns_as_all", -0.1, "CONTRADICTED"),
        ("alpha_learns_more", -0.1, "REPRODUCED"),
        ("alpha_learns_more", 0.0, "CONTRADICTED"),
        ("lion_learns_more", 0.1, "REPRODUCED"),
        ("lion_learns_more", 0.0, "CONTRADICTED"),
    ],
)
def test_what_arms_of_one_difference_learn(claim, more, status):
    other = trait(**SETTINGS[claim])
    arms = {"lora": (LEARNS, 0.0, trait()), "other": (LEARNS + more, 0.0, other)}
    assert check(claim, arms).status is Status[status]
    # Arms that differ in another setting, too, say nothing of this one.
    twofold = trait(**SETTINGS[claim], data_source="another")
    arms["other"] = (LEARNS + more, 0.0, twofold)
    assert check(claim, arms).status is Status.UNTESTED


def test_alphas_are_compared_with_the_largest():
    alphas = {f"alpha{alpha:g}": alpha for alpha in (8.0, 2.0, 0.5)}
    arms = {name: (LEARNS, 0.0, trait(adapter_alpha=alpha)) for name, alpha in alphas.items()}
    checked = check("alpha_learns_more", arms, (("alpha8", "alpha2"),))
    assert checked.evidence.count("alpha8 – ") == 2 and "alpha2 – " not in checked.evidence
    ranks = check("rank_orders_learning", arms, (("alpha8", "alpha2"),))
    assert ranks.status is Status.UNTESTED, "one rank"


@pytest.mark.parametrize(
    ("claim", "setting"), [("kl_keeps", "penalty_non_target_kl"), ("l2_keeps", "penalty_l2")]
)
def test_whether_a_penalty_keeps(claim, setting):
    for less, status in ((-0.1, Status.REPRODUCED), (0.0, Status.CONTRADICTED)):
        held = trait(**{setting: 1.0})
        arms = {"lora": (LEARNS, 0.0, trait()), "held": (LEARNS, less, held)}
        checked = check(claim, arms, (("held", "lora"),))
        assert checked.status is status and checked.p is None, "a declared contrast"
        assert check(claim, arms, (("lora", "held"),)).p is not None


def test_whether_one_percent_of_replay_keeps_all():
    replay = trait(data_source="new:99,old:1")
    arms = {"lora": (LEARNS, 0.1, trait()), "replay": (LEARNS, 0.1, replay)}
    assert check("replay_keeps_all", arms).status is Status.CONTRADICTED
    arms["replay"] = (LEARNS, -0.4, replay)
    checked = check("replay_keeps_all", arms)
    assert checked.status is Status.REPRODUCED and "replay, where it learned" in checked.evidence
    arms["replay"] = (LEARNS, -0.4, trait(data_source="new:95,old:5"))
    assert check("replay_keeps_all", arms).status is Status.UNTESTED


@pytest.mark.parametrize(("more", "status"), [(0.0, "REPRODUCED"), (0.2, "CONTRADICTED")])
def test_whether_scaling_follows_the_frontier(more, status):
    lora = grid("lora", LEARNS, forgets(LEARNS), noise=0.003)
    learned = LEARNS[:3]
    scaled = grid("scaled", learned, forgets(learned, more), RATES[:3], noise=0.003)
    cells = tuple(Cell(3e-3, 100, Point("scales", x)) for x in (0.25, 0.5, 0.75))
    kinds = {"scaled": Traits("derived", rest="lora-0.003-100-s0")}
    planted = findings(
        lora,
        dataclasses.replace(scaled, cells=cells),
        contrasts=(("scaled", "lora"),),
        traits=kinds,
    )
    assert CLAIMS["scaling_is_the_frontier"].check(planted).status is Status[status]


def swept(name, best, **settings):
    """A parabola over the log of the rate with its best one inside of the sweep."""
    rates = best * np.array([0.1, 0.35, 1.1, 3.0, 9.0])
    learned = 0.9 - 0.2 * np.log10(rates / best) ** 2
    kind = "full" if name == "full" else "lora"
    one = grid(name, learned, forgets(learned), tuple(rates), noise=0.002)
    return one, trait(kind, **settings)


def rates_of(claim, *arms):
    kinds = {one.arm.name: traits for one, traits in arms}
    grids = [one for one, _ in arms]
    contrasts = ((grids[0].arm.name, grids[1].arm.name),)
    return CLAIMS[claim].check(findings(*grids, traits=kinds, contrasts=contrasts))


@pytest.mark.parametrize(("ratio", "status"), [(1.0, "REPRODUCED"), (5.0, "CONTRADICTED")])
def test_whether_the_best_rate_of_a_zero_start_carries_over(ratio, status):
    lora = swept("lora", 1e-3 * ratio, adapter_init="a_zero")
    assert rates_of("a_zero_rate", lora, swept("full", 1e-3)).status is Status[status]
    other = swept("lora", 1e-3)
    assert rates_of("a_zero_rate", other, swept("full", 1e-3)).status is Status.UNTESTED


@pytest.mark.parametrize(("power", "status"), [(-0.5, "REPRODUCED"), (0.0, "CONTRADICTED")])
def test_the_power_of_the_rank_in_the_best_rate(power, status):
    arms = []
    for rank in (1, 8, 64):
        best = 1e-3 * rank**power
        arms.append(swept(f"r{rank}", best, adapter_rank=rank, adapter_alpha=2.0 * rank))
    assert rates_of("rate_falls_with_rank", *arms).status is Status[status]
    fixed = [swept(f"r{rank}", 1e-3, adapter_rank=rank) for rank in (1, 8)]
    assert rates_of("rate_falls_with_rank", *fixed).status is Status.UNTESTED


def ranked(**measures):
    """LoRA and full finetuning, with measures of the latter's weights, by rate."""
    lora = grid("lora", LEARNS, forgets(LEARNS))
    return findings(lora, grid("full", LEARNS, forgets(LEARNS), **measures))


@pytest.mark.parametrize(
    ("claim", "higher", "lower"),
    [("rank_in_mlp", "mlp", "attention"), ("rank_at_ends", "middle", "ends")],
)
def test_where_the_rank_is_high(claim, higher, lower):
    noise = 0.02 * np.random.default_rng(0).normal(size=(5, len(RATES)))
    shares = {f"k90_share_{higher}": 0.5 + noise, f"k90_share_{lower}": 0.3 + noise[::-1]}
    assert CLAIMS[claim].check(ranked(**shares)).status is Status.REPRODUCED
    swapped = dict(zip(shares, list(shares.values())[::-1], strict=True))
    assert CLAIMS[claim].check(ranked(**swapped)).status is Status.CONTRADICTED
    same = {name: 0.4 + turn * noise for name, turn in zip(shares, (1, -1), strict=True)}
    assert CLAIMS[claim].check(ranked(**same)).status is Status.UNDECIDED
    assert CLAIMS[claim].check(ranked()).status is Status.UNTESTED


@pytest.mark.parametrize(("growth", "status"), [(3.0, "REPRODUCED"), (-3.0, "CONTRADICTED")])
def test_whether_the_rank_grows_with_training(growth, status):
    noise = np.random.default_rng(0).normal(size=(5, len(RATES)))
    planted = ranked(k90=20 + growth * np.arange(len(RATES)) + noise)
    assert CLAIMS["rank_grows"].check(planted).status is Status.UNTESTED, "one length"
    full = planted.grids["full"]
    cells = tuple(Cell(1e-3, 10 * 2**doubling) for doubling in range(len(RATES)))
    longer = dataclasses.replace(full, cells=cells)
    planted = dataclasses.replace(planted, grids=planted.grids | {"full": longer})
    checked = CLAIMS["rank_grows"].check(planted)
    assert checked.status is Status[status] and "per doubling of steps" in checked.evidence
