"""The paper's advice: each piece holds where it is planted, and not where it is not."""

import dataclasses
import re
import shlex

import numpy as np
import pytest
from planted_grids import findings, grid

from lfl_jax.config import Config, command_line
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import Effect, independent_difference
from lfl_jax.statistics.frontier import Arm, Axis
from lfl_jax.studies import advice, claims, recommended
from lfl_jax.studies import grid as study_grid
from lfl_jax.studies.claims.advice import ADVICE, Answered
from lfl_jax.studies.claims.claim import Status
from lfl_jax.studies.traits import Traits

LEARNS = np.array([0.3, 0.5, 0.7, 0.8, 0.6])
FORGETS = np.array([0.1, 0.15, 0.2, 0.3, 0.4])
ALL = ("q", "k", "v", "o", "gate", "up", "down")
HOLDS, NOT, UNDECIDED, UNTESTED = (
    *(Status.REPRODUCED, Status.CONTRADICTED),
    *(Status.UNDECIDED, Status.UNTESTED),
)


def lora(rank=16, targets=ALL):
    return Traits("lora", rank, targets, "rest")


def study(arms, contrasts, base="lab", epochs=None):
    """arms: {name: (learned by rate, forgotten, traits)}."""
    grids = [
        grid(name, learned, forgotten, noise=0.004)
        for name, (learned, forgotten, _) in arms.items()
    ]
    traits = {name: kind for name, (_, _, kind) in arms.items()}
    found = findings(*grids, contrasts=contrasts, traits=traits)
    return Answered(found, base, "cpt" in base, epochs or {})


def with_full(loss, base="lab"):
    """LoRA learns `loss` less than full finetuning."""
    arms = {"lora": (LEARNS - loss, FORGETS, lora()), "full": (LEARNS, FORGETS, Traits("full"))}
    return study(arms, (("lora", "full"),), base)


def check(name, *studies):
    return ADVICE[name].check(studies)


@pytest.mark.parametrize(
    ("text", "instructions", "status"),
    [(0.3, 0.05, HOLDS), (0.05, 0.3, NOT), (0.05, 0.05, NOT)],
)
def test_instructions_rather_than_text(text, instructions, status):
    checked = check("instructions", with_full(text, "lab:cpt"), with_full(instructions))
    assert checked.status is status
    # Of what full finetuning gained over the base: .8 less .1.
    (share,) = re.findall(r"LoRA learns ([\d.]+)%", checked.evidence)
    assert float(share) == pytest.approx(100 * text / 0.7, abs=2)


def test_a_best_rate_at_an_edge_leaves_it_open():
    rising = np.sort(LEARNS)
    arms = {"lora": (rising - 0.3, FORGETS, lora()), "full": (rising, FORGETS, Traits("full"))}
    text = study(arms, (("lora", "full"),), "lab:cpt")
    checked = check("instructions", text, with_full(0.05))
    assert checked.status is UNDECIDED and "edge of its sweep" in checked.evidence


def lengths(learned, epochs):
    """LoRA at several lengths; learned: the most at each."""
    both = [
        grid("lora", LEARNS + most, FORGETS, steps=n, seed=n, noise=0.004)
        for n, most in learned.items()
    ]
    x, y = (
        Axis(np.concatenate([getattr(one.arm, axis).values for one in both], axis=1))
        for axis in ("x", "y")
    )
    cells = tuple(cell for one in both for cell in one.cells)
    joined = dataclasses.replace(both[0], arm=Arm("lora", x, y), cells=cells)
    full = grid("full", LEARNS, FORGETS, steps=max(learned))
    found = findings(
        joined,
        full,
        contrasts=(("lora", "full"),),
        traits={"lora": lora(), "full": Traits("full")},
    )
    return Answered(found, "lab", False, epochs)


EPOCHS = {6: 1.0, 12: 2.0, 24: 4.0, 80: 13.3}


@pytest.mark.parametrize(
    ("learned", "status"),
    [
        ({6: -0.1, 12: -0.2, 24: 0.0, 80: 0.1}, HOLDS),
        ({6: -0.2, 12: 0.0, 24: 0.0, 80: 0.1}, NOT),
    ],
)
def test_four_epochs_against_fewer(learned, status):
    checked = check("epochs", lengths(learned, EPOCHS))
    assert checked.status is status
    assert "lora at 4 epochs – lora at 2 epochs" in checked.evidence
    assert "beyond it: lora at 13 epochs – lora at 4 epochs: learning +0.09" in checked.evidence


def test_lengths_that_are_all_long_tell_nothing():
    long = {steps: 5 * passes for steps, passes in EPOCHS.items()}
    assert check("epochs", lengths(dict.fromkeys(EPOCHS, 0.0), long)).status is UNTESTED
    assert check("epochs", with_full(0.1)).status is UNTESTED


def modules(attention, mlp, more=0.0):
    arms = {
        "attention": (LEARNS - attention, FORGETS, lora(targets=ALL[:4])),
        "everything": (LEARNS, FORGETS, lora()),
        "mlp": (LEARNS - mlp, FORGETS, lora(targets=ALL[4:])),
    }
    # A rank further from 16, where it is the other way.
    arms |= {
        f"{name}64": (learned + more, forgotten, dataclasses.replace(kind, rank=64))
        for name, (learned, forgotten, kind) in arms.items()
    }
    return study(arms, (("attention", "mlp"),))


@pytest.mark.parametrize(
    ("losses", "status"),
    [((0.3, 0.1), HOLDS), ((0.3, -0.1), NOT), ((0.3, 0.0), NOT)],
)
def test_all_modules_against_each_part(losses, status):
    checked = check("modules", with_full(0.1), modules(*losses))
    assert checked.status is status, checked
    assert "everything – attention: learning" in checked.evidence
    assert "64" not in checked.evidence


def test_a_part_whose_best_rate_is_at_an_edge_may_have_learned_more():
    rising = np.sort(LEARNS) - 0.3
    arms = {
        "everything": (LEARNS, FORGETS, lora()),
        "mlp": (rising, FORGETS, lora(targets=ALL[4:])),
    }
    checked = check("modules", study(arms, (("everything", "mlp"),)))
    assert checked.status is UNDECIDED and "the best rate of mlp is the edge" in checked.evidence


def ranks(learned, forgotten):
    """What the highest rank learns and forgets more than 16."""
    arms = {
        "r4": (LEARNS - 0.2, FORGETS, lora(4)),
        "r16": (LEARNS, FORGETS, lora()),
        "r64": (LEARNS + learned, FORGETS + forgotten, lora(64)),
    }
    return study(arms, (("r16", "r64"),))


@pytest.mark.parametrize(
    ("more", "status"), [((0.1, 0.2), HOLDS), ((0.0, 0.2), NOT), ((0.1, 0.0), NOT)]
)
def test_the_highest_rank_and_the_compromise(more, status):
    checked = check("rank", with_full(0.1), ranks(*more))
    assert checked.status is status
    assert "r64 – r16: learning" in checked.evidence and "r16 – r64: forg" in checked.evidence


def test_the_order_of_shares_has_differences_with_intervals():
    by_rate = np.array([-0.4, -0.2, 0.0, 0.2, 0.4])
    arms = {}
    for m, targets in enumerate((ALL, ALL[:4])):
        for r, rank in enumerate((4, 16)):
            learned = 0.5 + by_rate - 0.1 * m + 0.03 * r
            arms[f"m{m}r{rank}"] = (learned, FORGETS, lora(rank, targets))
    checked = check("sensitivity", study(arms, (("m0r4", "m1r4"),)))
    assert checked.status is HOLDS
    assert "rate less modules +9" in checked.evidence and "modules less rank +" in checked.evidence
    assert check("sensitivity", with_full(0.1)).status is UNTESTED


def test_studies_without_the_arms_test_nothing():
    results = claims.check_all(ADVICE, [with_full(0.1, "lab:cpt")])
    assert {result.checked.status for result in results} == {UNTESTED}
    statuses = {result.name: result.checked.status for result in results}
    assert recommended.config([with_full(0.1, "lab:cpt")], statuses)[0].startswith("no config")


def config_lines(*studies, **statuses):
    told = dict.fromkeys(ADVICE, HOLDS) | statuses
    return recommended.config(studies, told)


def test_the_config_follows_what_the_data_say():
    studies = (ranks(0.1, 0.2), modules(0.3, 0.1), lengths({6: 0, 12: 0, 24: 0.2, 80: 0.1}, EPOCHS))
    text = "\n".join(config_lines(*studies))
    assert "rank     64 (holds; r64 learned most" in text
    assert "steps    24 (4 epochs" in text
    assert f"modules  {', '.join(ALL)} (holds; everything learned most)" in text
    assert "best of r64, the arm nearest to it" in text
    command = config_lines(*studies)[-1]
    assert command.startswith("python -m lfl_jax.main --config=configs/lab.py:lora,r=64 ")

    text = "\n".join(config_lines(*studies, rank=UNDECIDED))
    assert "rank     16 (undecided; r64 learned most" in text
    less = (studies[0], modules(0.3, -0.1))
    text = "\n".join(config_lines(*less, modules=NOT))
    assert "modules  gate, up, down (does not hold; mlp learned most)" in text


def test_the_printed_command_is_understood():
    """With the fields that it prints, it is the config that it names."""
    (*_, command) = config_lines(ranks(0.1, 0.2), modules(0.3, 0.1))
    _, _, module, place, *flags = shlex.split(command)
    assert module == "lfl_jax.main"
    fields = dict(flag.removeprefix("--config.").split("=", 1) for flag in flags[:-1])
    config: Config = command_line.configured(place.removeprefix("--config="), fields)
    assert config.adapter.targets == ALL and config.adapter.rank == 64
    assert config.train.steps == 100 and config.optim.lr == pytest.approx(1.6e-3, rel=0.6)


def test_independent_effects_by_hand():
    first, second = Effect(0.5, 0.3, 4.0, 5), Effect(0.2, 0.4, 9.0, 10)
    found = independent_difference(first, second)
    assert (found.mean, found.se, found.seeds) == (pytest.approx(0.3), pytest.approx(0.5), 5)
    assert found.df == pytest.approx(0.25**2 / (0.09**2 / 4 + 0.16**2 / 9))
    assert not found.df > min(first.df + second.df, 99)
    one_seed = Effect(0.5, float("nan"), 0.0, 1)
    assert np.isnan(independent_difference(first, one_seed).interval()[0])
    same = dataclasses.replace(first, se=0.0)
    assert independent_difference(same, same).df == 4


def test_passes_over_the_data_of_a_study_of_lengths():
    config = study_grid.load("configs/studies/advice.py:epochs")
    epochs = advice.epochs_of(config, study_grid.expand(dataclasses.replace(config, seeds=(0,))))
    assert [round(epochs[n], 1) for n in (12, 24, 80)] == [2.0, 4.0, 13.3]
    single = study_grid.load("configs/studies/advice.py")
    assert advice.epochs_of(single, ()) == {}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "expected studies, CONFIG=DIR each"),
        (["studies/lab"], "'studies/lab': expected CONFIG=DIR"),
        (["configs/studies/lab.py=nowhere"], "there is no directory nowhere; run the study first"),
    ],
)
def test_arguments_that_name_no_study(arguments, why):
    with pytest.raises(UserError, match=why):
        advice.main(["advice", *arguments])


def test_a_study_without_finished_runs(tmp_path):
    files.write_text(tmp_path / "runs.jsonl", "")
    with pytest.raises(UserError, match="no run has finished"):
        advice.main(["advice", f"configs/studies/advice.py:cpt={tmp_path}"])
    assert not (tmp_path / "report").exists()


def test_what_is_printed_and_written(tmp_path, monkeypatch, capsys):
    studies = iter([with_full(0.05), with_full(0.3, "lab:cpt"), modules(0.3, 0.1)])
    monkeypatch.setattr(advice, "read", lambda place, folder: next(studies))
    advice.main(["advice", *(f"{name}={tmp_path}" for name in "abc")])
    printed = capsys.readouterr().out
    assert "rather than continued pretraining. Holds: LoRA learns" in printed
    assert "at least 4 epochs. Not tested: no study has LoRA" in printed
    assert printed.rstrip().endswith("runs/advice")
    table = (tmp_path / "report/tables/advice_claims.csv").read_text()
    assert len(table.splitlines()) == 1 + len(ADVICE) and "reproduced here" in table
