"""The base after worked examples: another way to learn, which changes no weights."""

import dataclasses
import functools

import numpy as np
import pytest
from lfl_jax.configs.studies import base, prompting, smoke
from planted_grids import findings, grid

from lfl_jax.config import command_line
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.evals import inputs
from lfl_jax.evals import records as record_files
from lfl_jax.evals.tasks import TASKS
from lfl_jax.report import results_json
from lfl_jax.statistics.frontier import frontier_cells, gap
from lfl_jax.studies import grid as study_grid
from lfl_jax.studies import outcome, predictors
from lfl_jax.studies.claims import CLAIMS
from lfl_jax.studies.claims.claim import Status
from lfl_jax.studies.points import Point
from lfl_jax.studies.running import execute
from lfl_jax.studies.running.execute import State, Study
from lfl_jax.studies.runs import Cell

WORDS = "math_ift:smoke"


@functools.cache
def plain_inputs(words, **fields):
    config = command_line.configured(words, {k.replace("_", ".", 1): v for k, v in fields.items()})
    return inputs.from_config(config), config


def asked(task, count, words=WORDS, **fields):
    """The items of a task after so many worked examples."""
    plain, config = plain_inputs(words, **fields)
    return TASKS[task].items(inputs.after_shots(plain, config, count)), config


@pytest.mark.parametrize("task", ["source_test", "target_nll"])
def test_worked_examples_stand_before_the_same_questions(task):
    plain, config = asked(task, 0)
    two, _ = asked(task, 2)
    assert [item.id for item in plain] == [item.id for item in two]
    worked = [item.prompt.removesuffix(own.prompt) for item, own in zip(two, plain, strict=True)]
    (preamble,) = {*worked}
    # Two answered questions, each with an empty line after it, as in the harness.
    assert preamble.count("Question: ") == preamble.count("####") == 2
    assert preamble.endswith("\n\n") and len(preamble.split("\n\n")) == 3
    train = {f"Question: {e.prompt}" for e in inputs._first_examples(config, "train", 64)}
    assert {shot.partition("\nAnswer:")[0] for shot in preamble.split("\n\n")[:2]} <= train


def test_a_seed_draws_its_own_examples_and_a_larger_number_has_those_of_a_smaller():
    prompts = {
        (seed, count): asked("target_nll", count, seed_data=seed, data_seed=0)[0][0].prompt
        for seed, count in ((0, 1), (0, 3), (1, 1))
    }
    one, three, other = (prompts[key] for key in ((0, 1), (0, 3), (1, 1)))
    first = one.split("\n\n")[0]
    assert three.split("\n\n")[0] == first != other.split("\n\n")[0]
    # They are asked the same.
    assert one.split("\n\n")[-1] == three.split("\n\n")[-1] == other.split("\n\n")[-1]


def test_a_fact_of_the_lab_is_asked_after_others_of_its_kind():
    rules, _ = asked("lab_rule", 4, "lab")
    # As many words as four facts and a question have.
    words = rules[0].prompt.split()
    assert [words[i] for i in (1, 4, 7, 10, 13)] == 5 * ["r5"] and len(words) == 14
    facts, _ = asked("lab_new_facts", 2, "lab")
    for item in facts:
        *before, entity, relation = item.prompt.split()
        assert relation == "r4" and entity not in before and len(before) == 2 * 3
    assert not TASKS["lab_source_facts"].takes_shots, "training has no examples of these"


def test_what_cannot_be_asked():
    with pytest.raises(UserError, match="99 examples before a question: .* has 64"):
        asked("target_nll", 99)
    with pytest.raises(UserError, match="documents have no questions"):
        asked("target_nll", 1, "lab:cpt", data_size=8)


def test_an_arm_of_prompts_has_one_rate_and_needs_no_training():
    values = smoke.get_config().to_dict()
    values["arms"]["prompted"] = base.derived("lora", shots=(0, 4)).to_dict()
    runs = [run for run in study_grid.expand(study_grid.read(values)) if run.source]
    assert [run.name for run in runs if run.seed == 0] == [
        "prompted-0.001-4-s0-0_shots",
        "prompted-0.001-4-s0-4_shots",
    ]
    assert str(Cell(1e-3, 4, Point("shots", 4))).endswith("4 examples in the prompt")
    assert Cell(1e-3, 4, Point("shots", 4)).mark == "4 shots"
    values["arms"]["prompted"]["shots"] = (-1,)
    with pytest.raises(UserError, match="expected numbers of examples >= 0"):
        study_grid.read(values)


SHOTS = (0, 1, 4)


def planted(gain):
    """LoRA learns up to .9 and forgets; a prompt gains so much over the base's .1 at most."""
    learned = np.array([0.3, 0.5, 0.7, 0.9, 0.8])
    lora = grid("lora", learned, 0.3 * learned, divergence=learned, noise=0.004)
    prompted = grid("prompted", 0.1 + gain * np.array([0, 0.8, 1]), np.zeros(3), SHOTS, noise=0.004)
    arm = dataclasses.replace(
        prompted.arm, y=dataclasses.replace(prompted.arm.y, values=0 * prompted.arm.y.values)
    )
    far = dataclasses.replace(lora.divergence, values=np.zeros((5, 3, 1)))
    cells = tuple(Cell(1e-4, 100, Point("shots", count)) for count in SHOTS)
    return lora, dataclasses.replace(prompted, arm=arm, cells=cells, divergence=far)


@pytest.mark.parametrize(("gain", "status"), [(0.4, Status.REPRODUCED), (0.8, Status.CONTRADICTED)])
def test_whether_lora_learns_more_than_a_prompt(gain, status):
    checked = CLAIMS["more_than_prompting"].check(findings(*planted(gain)))
    assert checked.status is status
    assert "learned most with 4 shots, and lora forgets +0.27" in checked.evidence
    alone = findings(planted(gain)[0], grid("full", [0.1, 0.2], [0.1, 0.2], (1.0, 2.0)))
    assert CLAIMS["more_than_prompting"].check(alone).status is Status.UNTESTED


def test_at_equal_learning_a_prompted_base_is_a_level_line():
    """Its curve is all of its numbers of examples: LoRA's forgetting is what lies between."""
    lora, prompted = planted(0.6)
    apart = gap(lora.arm, prompted.arm)
    assert (apart.low, apart.high) == pytest.approx((0.3, 0.7), abs=0.01)
    # The mean of .3 x learning over that range.
    assert apart.effect.mean == pytest.approx(0.3 * (apart.low + apart.high) / 2, abs=0.005)
    low, high = apart.effect.interval()
    assert low < 0.15 < high and high - low < 0.03
    x, y = np.array([0.5, 0.2, 0.4]), np.array([0.3, 0.1, 0.1])
    assert frontier_cells(x, y).tolist() == [2, 0], "elsewhere the frontier is as it was"


def test_prompts_are_no_points_of_what_explains_forgetting():
    lora, prompted = planted(0.6)
    alone = predictors.explain({"lora": lora})
    both = predictors.explain({"lora": lora, "prompted": prompted})
    assert both.keys() == alone.keys() and predictors.DIVERGENCE in both
    assert all(np.array_equal(both[name].by_seed, alone[name].by_seed) for name in alone)


@pytest.mark.parametrize("word", ["", "smollm2"])
def test_sizes_are_as_the_docstring_says(word):
    study = study_grid.load(f"{prompting.__file__}:{word}".rstrip(":"))
    runs = study_grid.expand(dataclasses.replace(study, seeds=study.seeds[:1]))
    trained = len(study.seeds) * sum(not run.source for run in runs)
    prompts = len(study.seeds) * sum(bool(run.source) for run in runs)
    said = " ".join(prompting.__doc__.split())
    assert f"{trained} runs" in said and f"{prompts} evaluations" in said


@pytest.mark.slow
def test_a_study_prompts_its_base(tmp_path):
    """2 minutes."""
    values = smoke.get_config().to_dict()
    values["arms"]["prompted"] = base.derived("lora", shots=(0, 2)).to_dict()
    values["config"]["eval"]["tasks"] = (
        "target_nll:4",
        "source_test:2",
        "source_nll:4",
        "target_kl:4",
    )
    study = Study(tmp_path / "study", study_grid.expand(study_grid.read(values)))
    only = "(lora|prompted)-0.001-"
    assert execute.execute(study, only=only, quiet=True)
    states, chosen = study.states(), execute.select(study.runs, only)
    assert {states[run.name] for run in chosen} == {State.FINISHED}

    def records(run, task, when="after"):
        folder = study.run_folder(run) / "evals" / when
        return files.read_jsonl(folder / f"{task}.jsonl")[1:]

    by_name = {run.name: run for run in chosen}
    none, two, other = (
        by_name[f"prompted-0.001-4-s{seed}-{count}_shots"]
        for seed, count in ((0, 0), (0, 2), (1, 2))
    )
    for task in ("target_nll", "source_test", "source_nll"):
        assert records(none, task) == records(none, task, "before")
    # General text is asked as ever, and nothing of it is forgotten.
    assert records(two, "source_nll") == records(two, "source_nll", "before")
    assert {one["forward_kl"] for one in records(two, "target_kl")} == {0.0}
    losses = [[one["nll"] for one in records(run, "target_nll")] for run in (none, two, other)]
    assert losses[0] != losses[1] != losses[2], "each seed draws its own examples"
    headers = [
        record_files.header(study.run_folder(run) / "evals/after/target_nll.jsonl")
        for run in (none, two)
    ]
    # Rows have room for the examples, as far as the model's context goes.
    assert [header["settings"]["length"] for header in headers] == [256, 512]
    facts = results_json.saved_facts(study.run_folder(two))
    assert facts["provenance"]["derived"] == {
        "run": "lora-0.001-4-s0",
        "intervention": "shots",
        "value": 2,
    }
    base_scores = outcome._base(study, by_name["lora-0.001-4-s0"])
    read = {run.name: run for run in outcome.read(study, states, base_scores)}
    assert read[two.name].base is None and not read[two.name].scores.prompts
