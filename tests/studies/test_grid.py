"""A study expands to runs with stable names; what it cannot mean is refused in a line."""

import dataclasses

import pytest
from lfl_jax.configs.studies import base, smoke

from lfl_jax.analysis.interventions import INTERVENTIONS
from lfl_jax.config import command_line
from lfl_jax.errors import UserError
from lfl_jax.studies import grid, points, traits


def study(**changes):
    return grid.read(smoke.get_config().to_dict() | changes)


def arms(**words):
    return {name: base.arm(text, lr=(1e-3,)).to_dict() for name, text in words.items()}


def test_a_grid_of_runs():
    runs = {run.name: run for run in grid.expand(study())}
    assert len(runs) == 2 * 2 * 2 and len({run.config.hash() for run in runs.values()}) == 8
    run = runs["lora-0.01-4-s1"]
    assert (run.arm, run.lr, run.steps, run.seed) == ("lora", 0.01, 4, 1)
    assert (run.config.optim.lr, run.config.train.steps, run.config.adapter.rank) == (0.01, 4, 2)
    assert runs["full-0.001-4-s0"].config.trainable == ("params/.*",)
    # Expanded again, it is the same: directories are found by these names.
    assert [r.name for r in grid.expand(study())] == list(runs)


@pytest.mark.parametrize(
    ("place", "runs"),
    [
        ("lab.py", 330),
        ("lab.py:cpt", 45),
        ("lab.py:quick", 8),
        ("smoke.py", 8),
        ("smollm2.py", 60),
        ("smollm2.py:quick", 12),
        ("regularisation.py", 200),
        ("regularisation.py:quick", 24),
        ("diversity.py", 18),
        ("diversity.py:quick", 4),
    ],
)
def test_the_studies_that_there_are(place, runs):
    study = grid.load(f"configs/studies/{place}")
    of_a_seed = grid.expand(dataclasses.replace(study, seeds=study.seeds[:1]))
    assert len(of_a_seed) * len(study.seeds) == runs
    assert study.question.contrasts[0] in (("lora", "full"), ("lora", "full_decay"))


def test_ranks_in_the_lab_have_as_many_rates():
    rates = {arm.name: arm.rates for arm in grid.load("configs/studies/lab.py").arms}
    assert len(rates["lora4"]) == len(rates["lora64"]) == 6
    # The best of 310 runs was 4e-3, then the edge of this sweep.
    assert max(rates["lora64"]) == 8e-3


def test_seeds_are_apart_and_leave_base_and_items_alone():
    config = command_line.configured("math_ift:smoke", {})
    seeds = grid.seeds_of(config, 3)
    assert seeds == {
        "seed.init": 0,
        "seed.data": 13,
        "seed.dropout": 14,
        "seed.sample": 15,
        "data.seed": 0,
    }
    trained = command_line.configured("math_ift", {"data.seed": 7})
    assert grid.seeds_of(trained, 3)["seed.init"] == 12
    assert "data.seed" not in grid.seeds_of(trained, 3)


def test_an_arm_overrides_the_study_which_overrides_the_base():
    values = arms(lora="lora,r=2", small="lora,r=2")
    values["small"]["config"] = {"train": {"batch": 4}, "adapter": {"alpha": 1}}
    config = smoke.get_config().config.to_dict() | {"train": {"batch": 8}}
    runs = grid.expand(study(arms=values, config=config, contrasts=()))
    assert {run.arm: run.config.train.batch for run in runs} == {"lora": 8, "small": 4}
    assert {run.config.adapter.alpha for run in runs} == {None, 1.0}


def scaled(of="lora", **fields):
    values = arms(lora="lora", full="full")
    values["half"] = base.derived(of, scales=(0.5,)).to_dict() | fields
    return {"arms": values, "contrasts": ()}


def test_an_arm_without_training_scales_another_s_runs():
    runs = grid.expand(study(**scaled(scales=(0.5, 0))))
    by_name = {run.name: run for run in runs}
    assert len(runs) == len(by_name) == 2 * (1 + 1 + 2)
    half = by_name["half-0.001-4-s1-x0.5"]
    assert (half.arm, half.lr, half.steps, half.seed) == ("half", 1e-3, 4, 1)
    assert (half.source, half.point) == ("lora-0.001-4-s1", ("scales", 0.5))
    assert half.config == by_name["lora-0.001-4-s1"].config
    # Whatever the order of the arms, a run comes after the one that it needs.
    values = scaled()["arms"]
    turned = dict(reversed(values.items()))
    names = [run.name for run in grid.expand(study(arms=turned, contrasts=()))]
    assert names.index("half-0.001-4-s0-x0.5") > names.index("lora-0.001-4-s0")
    twice = scaled()["arms"] | {"same": values["half"]}
    with pytest.raises(UserError, match="arms half and same do not differ"):
        grid.expand(study(arms=twice, contrasts=(("lora", "full"),)))


def test_every_intervention_is_an_arm_of_its_own_curve():
    fields = base.derived().to_dict()
    assert [*fields.pop("scales")] == [0.25, 0.5, 0.75] and fields.pop("of") == ""
    # The fields of a config, what they do and how it is called are one list.
    assert {*fields, "scales"} == {*INTERVENTIONS} == {*points.VALUES}
    assert base.derived("lora", truncate=(2,)).scales == ()

    names = {"truncate": (4, 16), "intruders": (0.0, 1.5), "without": ("mlp", "layers/0/attn/q")}
    curves = {name: base.derived("lora", **{name: x}).to_dict() for name, x in names.items()}
    chosen = study(
        arms=arms(lora="lora", full="full") | curves, seeds=(0,), contrasts=(("lora", "full"),)
    )
    runs = [run for run in grid.expand(chosen) if run.source]
    assert [run.name.split("-s0-")[1] for run in runs] == [
        *("rank_4", "rank_16", "intruders_x0", "intruders_x1.5"),
        *("without_mlp", "without_layers.0.attn.q"),
    ]
    assert {run.source for run in runs} == {"lora-0.001-4-s0"}
    # of one arm, in the order of their values and not of their names
    assert [str(point) for point in chosen.arms[2].points] == ["rank 4", "rank 16"]
    assert traits.of_runs(runs)["without"].kind == traits.DERIVED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learnin": "a/b"}, "unknown study field learnin; did you mean learning?"),
        ({"arms": {"a": {"rates": (1.0,)}}}, "unknown study field arms.a.rates"),
        ({"arms": arms(lora="lora")}, "1 arms; a study compares at least 2"),
        ({"arms": arms(lora="lora,r=2", same="lora,r=2"), "contrasts": ()}, "arms lora and same do not differ"),
        ({"arms": arms(**{"a/b": "lora", "full": "full"}), "contrasts": ()}, "arm 'a/b'"),
        # ConfigDict would not take it either.
        ({"arms": arms(**{"r1.5": "lora", "full": "full"}), "contrasts": ()}, "arm 'r1.5': expected letters, digits,"),
        ({"arms": arms(lora="lorra", full="full"), "contrasts": ()}, "lorra"),
        ({"config": {"optim": {"rate": 1}}}, "config.optim.rate"),
        ({"seeds": (0, 0)}, "full-0.0001-4-s0 first: give every learning rate"),
        ({"steps": ()}, "study field steps=()"),
        ({"margin": 0.0}, "margin 0.0"),
        ({"weights": 1}, "weights=1: expected True or False"),
        ({"curvature": -1}, "curvature=-1: expected a whole number >= 0"),
        ({"contrasts": (("lora", "dora"),)}, "expected two of the arms"),
        ({"contrasts": (("lora", "full"),) * 5}, "5 contrasts of 2 arms; declare at most 4"),
        ({"learning": "gsm8k/exact_match"}, "learning is gsm8k/exact_match, but the runs evaluate"),
        ({"base": ""}, "study field base"),
        ({"checkpoints": "best"}, "study field checkpoints='best': expected one of all, weights, none"),
        (scaled() | {"checkpoints": "none"}, 'arm half alters the weights of lora; keep "weights"'),
        ({"weights": True, "checkpoints": "none"}, 'weights=True measures them; keep "weights"'),
        ({"arms": arms(full="full") | {"dora": {"lr": ("fast",)}}, "contrasts": ()}, "arm dora: lr (nan,)"),
        (scaled(of="dora"), "arm half alters 'dora'; expected one of the arms lora, full"),
        (scaled(of="half"), "arm half alters 'half'"),
        (scaled(scales=()), "arm half: nothing is done to the change; expected one of scales, truncate"),
        (scaled(truncate=(1,)), "arm half: scales and truncate; expected one of scales"),
        (scaled(scales=(), truncate=(0,)), "arm half: truncate (0,); expected ranks >= 1, each once"),
        (scaled(scales=(), truncate=(2.5,)), "arm half: truncate (2.5,)"),
        (scaled(scales=(), intruders=(float("nan"),)), "arm half: intruders (nan,); expected numbers"),
        (scaled(scales=(), without=("mlp", "mlp")), "arm half: without ('mlp', 'mlp'); expected names"),
        (scaled(scales=(), without=("/q",)), "arm half: without ('/q',)"),
        (scaled(scales=(), without=(0,)), "arm half: without (0,)"),
        (scaled(scales=(0.5, 0.5)), "arm half: scales (0.5, 0.5); expected numbers, each once"),
        (scaled(scales=(0.5, "x")), "arm half: scales"),
        (scaled(scale=0.5), "unknown study field arms.half.scale; did you mean scales?"),
    ],
)  # fmt: skip
def test_mistakes(changes, message):
    with pytest.raises(UserError) as error:
        grid.expand(study(**changes))
    assert message in str(error.value)


def test_an_axis_is_set_by_the_study_alone():
    values = arms(lora="lora", full="full")
    values["lora"]["config"] = {"optim": {"lr": 1e-3}}
    with pytest.raises(UserError, match=r"sets optim\.lr, which is an axis"):
        study(arms=values, contrasts=())


def test_tracked_runs_are_a_group_of_the_studys_name():
    values = smoke.get_config().to_dict()
    assert {run.config.log.wandb_group for run in grid.expand(grid.read(values))} == {""}
    values["config"]["log"]["wandb"] = "project"
    tracked = grid.expand(grid.read(values))
    assert {run.config.log.wandb_group for run in tracked} == {"Smoke study"}
    # What is logged is no part of what is trained.
    plain = grid.expand(grid.read(smoke.get_config().to_dict()))
    assert [run.config.hash() for run in tracked] == [run.config.hash() for run in plain]
    values["config"]["log"]["wandb_group"] = "mine"
    assert grid.expand(grid.read(values))[0].config.log.wandb_group == "mine"
