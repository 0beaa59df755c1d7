"""lfl_jax.run and lfl_jax.get_config: a run from Python, with objects of one's own, its results as
rows."""

import json

import jax.numpy as jnp
import optax
import pytest

import lfl_jax
from lfl_jax.data.examples import Example
from lfl_jax.errors import UserError
from lfl_jax.evals import multiple_choice
from lfl_jax.models.presets import PRESETS

LITTLE = {
    "train.steps": 2,
    "data.seq_len": 64,
    "eval.seq_len": 64,
    "eval.tasks": ("target_nll:2",),
    "eval.every_tasks": ("target_nll:2",),
    "eval.decontaminate": False,
    "log.tensorboard": False,
}


def plus(*, path, split, data, seed):
    digits = {"test": (0,), "dev": (1,)}.get(split, range(2, 10))
    return [
        Example(f"{a} + {b} =", str(a + b), f"{a}+{b}", f"{a}") for a in digits for b in range(10)
    ]


def questions(inputs):
    ends = (" even", " odd")
    return [
        multiple_choice.Question(str(i), str(i), tuple((f"{i} is", e) for e in ends), ends, i % 2)
        for i in range(4)
    ]


PARITY = multiple_choice.task("parity", 1, "parity", questions, ("acc",))


def config(**fields):
    return lfl_jax.get_config("math_ift:smoke,r=4", **LITTLE | fields)


@pytest.fixture(scope="module")
def own():
    return lfl_jax.Own(
        tasks=[PARITY],
        source=plus,
        optimizer=lambda optim: optax.scale_by_sign(),
        schedule=lambda optim, steps, warmup: lambda step: 1 / (1 + jnp.asarray(step)),
        template=lambda turns: [(f"{text} ", role == "assistant") for role, text in turns],
        model=PRESETS["tiny"],
    )


@pytest.fixture(scope="module")
def outcome(own, tmp_path_factory):
    return lfl_jax.run(config(), tmp_path_factory.mktemp("python") / "run", own=own)


def test_results_are_dataclasses_and_rows_for_pandas(outcome):
    rows = outcome.to_rows()
    assert (
        {row["task"] for row in rows} == {"target_nll", "parity"}
        and outcome.finished
        and outcome.trained == 2
    )
    assert {row["variant"] for row in rows} == {"before", "after", "change"}
    assert all(isinstance(row["estimate"], float) for row in rows)
    written = json.loads((outcome.workdir / "results.json").read_text())
    assert {row["task"] for row in written["rows"]} == {"target_nll", "parity"}
    assert (outcome.workdir / "summary.txt").is_file() and len(repr(outcome)) < 4000


def test_what_was_passed_is_recorded_and_has_to_be_passed_again(outcome, own):
    record = json.loads((outcome.workdir / "config.json").read_text())
    named = record["config"]
    assert named["data"]["source"] == "python:plus" and named["eval"]["tasks"] == [
        "target_nll:2",
        "parity",
    ]
    assert (
        named["optim"]["name"] == "python:function"
        and named["model"]["name"] == "python:ModelConfig"
    )
    assert "code" not in record, "nothing here can be run from a file"
    with pytest.raises(
        UserError, match=r"was passed as an object in Python; pass it again: own=lfl_jax.Own\(model"
    ):
        lfl_jax.run(f"from_run:{outcome.workdir}", outcome.workdir, quiet=True)


def test_a_finished_run_is_read_back_in_silence(outcome, own, capfd):
    again = lfl_jax.run(config(), outcome.workdir, own=own, quiet=True)
    said = capfd.readouterr()
    assert again.trained == 0 and repr(again.to_rows()) == repr(outcome.to_rows())
    assert again.facts["steps"] == 2 and "seconds" in str(again.facts)
    assert "target_nll" not in said.err + said.out and "train" not in said.err
    again.show()
    assert "parity" in capfd.readouterr().out


def test_progress_shows_unless_it_is_silenced(own, tmp_path, capfd):
    quick = config(**{"train.steps": 1})
    lfl_jax.run(quick, tmp_path / "quiet", own=own, quiet=True)
    silent = capfd.readouterr()
    assert "1/1" not in silent.err + silent.out and "target_nll" not in silent.err + silent.out


def test_fields_are_values_or_text_and_every_mistake_is_said():
    found = config(
        **{
            "optim.lr": "3e-3",
            "adapter.targets": "q,v",
            "eval.limit": None,
            "log.tensorboard": True,
        }
    )
    assert (
        found.optim.lr == 3e-3 and found.adapter.targets == ("q", "v") and found.eval.limit is None
    )
    assert config(**{"optim.lr": 1}).optim.lr == 1.0 and config(
        **{"adapter.targets": ["q"]}
    ).adapter.targets == ("q",)
    with pytest.raises(
        UserError,
        match=r"(?s)2 mistakes:.*optim.learning_rate: did you mean config.optim.lr.*an int",
    ):
        config(**{"optim.learning_rate": 1e-3, "train.batch": 1.5})


def test_an_object_that_the_config_names_stays_where_it_is_named(own):
    text = "word_problems:0.5,python:plus:0.5"
    found = config(**{"data.source": text, "eval.tasks": ("parity:2",)}).with_own(own)
    assert found.data.source == text and found.eval.tasks == ("parity:2",)
    assert [passed.name for passed in found.data.code.passed] == ["plus", "function"]


def test_equal_objects_make_equal_configs_so_that_programs_are_shared(own):
    assert config().with_own(own).optim == config().with_own(own).optim
    assert hash(config().with_own(own).optim) == hash(config().with_own(own).optim)
