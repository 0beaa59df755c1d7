"""Configs: every field checked, contradictions refused before anything is loaded, overrides on the
command line."""

import importlib
import pathlib
import re

import pytest
from lfl_jax.configs import base, math_ift

from lfl_jax.config import Config, checks, command_line
from lfl_jax.errors import UserError


def parse(*arguments):
    return command_line.parse(["main", *arguments], "help", {"workdir": ("", "directory")})


def changed(**fields):
    c = math_ift.get_config()
    for name, value in fields.items():
        section, field = name.split("__")
        with c.ignore_type():
            c[section][field] = value
    return Config.from_dict(c)


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "full",
        "dora,r=4",
        "lora+dora",
        "smoke",
        "smoke,full",
        "full_linear",
        "smoke,full_linear",
        "paper",
        "paper,full",
        "paper,full_linear",
        "lora,r=64",
    ],
)
def test_every_argument_gives_a_valid_config(argument):
    config = Config.from_dict(math_ift.get_config(argument))
    assert config.adapter.kinds == (
        ()
        if "full" in argument
        else tuple((argument.split(",")[0] if "dora" in argument else "lora").split("+"))
    )


def test_paper_is_the_protocol():
    c, full, r256 = (
        Config.from_dict(math_ift.get_config(a)) for a in ("paper", "paper,full", "paper,r=256")
    )
    assert (c.model.name, c.data.source, c.data.seq_len, c.train.batch) == (
        "llama2-7b",
        "metamath",
        1024,
        768,
    )
    assert (c.optim.name, c.optim.b1, c.optim.b2, c.optim.clip, c.optim.weight_decay) == (
        "lionw",
        0.9,
        0.95,
        1.0,
        0.0,
    )
    assert (c.optim.schedule, c.optim.warmup_fraction, c.optim.final_fraction) == (
        "cosine",
        0.1,
        0.01,
    )
    assert (c.optim.lr, r256.optim.lr, full.optim.lr) == (1e-4, 5e-5, 1e-5)
    assert (c.adapter.dropout, c.adapter.rank, c.adapter.alpha, len(c.adapter.targets)) == (
        0.05,
        16,
        None,
        7,
    )
    assert full.trainable == ("params/.*",) and full.adapter.rank is None


def test_arguments_set_fields():
    config, _ = parse(
        "--config=configs/math_ift.py:smoke,dora,r=4",
        "--config.optim.lr=0.5",
        "--config.adapter.targets=('q','v')",
    )
    assert (config.adapter.kind, config.adapter.rank, config.optim.lr, config.adapter.targets) == (
        "dora",
        4,
        0.5,
        ("q", "v"),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/math_ift.py", "--config.optim.learning_rate=1"], "learning_rate"),
        (["--config=configs/math_ift.py:smok"], "unknown argument smok"),
        (["--config=configs/maths.py"], "there are: .*configs/math_ift.py"),
        (
            ["--config=configs/math_ift.py", "--config.adapter.targets=('q,v',)"],
            "holds a name with a comma",
        ),
        (["--config=configs/math_ift.py", "--config.train.steps=many"], "many"),
        (["--config=configs/math_ift.py", "stray"], "unexpected arguments: stray"),
        ([], "no config given"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_clear_error(arguments, message):
    with pytest.raises(UserError, match=message):
        parse(*arguments)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adapter__kind": "none", "adapter__alpha": 32.0}, "without a rank"),
        ({"adapter__rank": None, "adapter__alpha": 32.0}, "without a rank"),
        ({"adapter__rank": 0}, "at least 1"),
        ({"adapter__kind": "none"}, "adapter paths"),
        ({"train__microbatch": 3}, "does not divide"),
        ({"optim__name": "adamm"}, "must be one of adamw, lionw, .*did you mean 'adamw'"),
        ({"optim__lr": -1.0}, "must be between"),
        ({"data__seq_len": "256"}, "must be an int"),
        ({"eval__tasks": ("gsm8k:few",)}, "must be a name"),
        ({"mesh__tensor": 0}, "mesh sizes"),
        (
            {"data__levels": (0, 0, 0)},
            r"data.levels=\(0, 0, 0\) must be three numbers >= 0, not all 0",
        ),
        ({"data__levels": (1, -1, 0)}, "not all 0"),
        ({"data__levels": (1, 1)}, "must have 3 entries"),
        (
            {"eval__log_spaced": 4, "eval__every": 2},
            "config.eval.every=2 and config.eval.log_spaced=4 each say when; give one",
        ),
        ({"eval__every": 2, "eval__every_tokens": 1e3}, "every_tokens=1000 each say when"),
        ({"eval__log_spaced": 1}, "log_spaced=1 must be 0 or at least 2"),
    ],
)
def test_contradictions_and_wrong_types_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        changed(**fields)


def test_missing_unknown_and_mistyped_fields_are_named():
    values = math_ift.get_config().to_dict()
    del values["optim"]["clip"]
    with pytest.raises(UserError, match="config.optim.clip is missing"):
        Config.from_dict(values)
    values["optim"]["clip"] = 1.0
    values["adapter"]["targets"] = ["q", "v"]
    with pytest.raises(UserError, match="config.adapter.targets=.* must be a tuple"):
        Config.from_dict(values)
    values["adapter"]["targets"] = ("q", "v")
    with pytest.raises(UserError, match="unknown config field config.optim.momentum"):
        Config.from_dict({**values, "optim": {**values["optim"], "momentum": 0.9}})


def test_every_field_is_in_base_with_a_comment_or_name_that_says_enough():
    source = importlib.import_module("lfl_jax.configs.base").__file__
    text = pathlib.Path(source).read_text(encoding="utf-8")
    fields = {
        f"{s}.{n}"
        for s, section in base.base().items()
        if hasattr(section, "items")
        for n in section
    }
    assert len(fields) > 50 and all(f".{name.split('.')[1]} = " in text for name in fields)


def test_a_wrong_word_of_a_config_is_said_in_one_line():
    with pytest.raises(UserError) as error:
        command_line.parse(["main", "--config=configs/math_ift.py:smoke,lorra"], "", {})
    assert str(error.value) == "unknown argument lorra of configs/math_ift.py; see its docstring"


@pytest.mark.parametrize(
    ("word", "kind", "held"),
    [("qlora", "lora", "nf4"), ("loftq", "loftq", "nf4"), ("vera", "vera", "float32")],
)
def test_words_for_kinds(word, kind, held):
    config, _ = command_line.parse(["main", f"--config=configs/math_ift.py:smoke,{word}"], "", {})
    assert config.adapter.kind == kind and config.model.base_dtype == held


def test_quantised_bases_do_not_train_and_loftq_needs_one():
    for words, message in (
        ("full --config.model.base_dtype=nf4", "base_dtype=nf4 is for a frozen base"),
        ("loftq --config.model.base_dtype=bfloat16", "loftq corrects a quantised base"),
    ):
        word, option = words.split()
        with pytest.raises(UserError, match=message):
            command_line.parse(
                ["main", f"--config=configs/math_ift.py:smoke,{word}", option], "", {}
            )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--config.optim.warmup_steps=6", "the warmup of 6 steps is no shorter than the run of 6"),
        ("--config.optim.warmup_fraction=1", "never reaches config.optim.lr"),
        (
            "--config.optim.weight_decay=0.1 --config.optim.lr=0.01",
            "10% off every .* config.optim.weight_decay=0.001",
        ),
        ("--config.eval.every=7", "config.eval.every=7 is beyond the run of 6 steps"),
        ("--config.log.every=7", "gets no training loss"),
        ("--config.optim.lora_plus=16", "changes nothing"),
    ],
)
def test_what_a_run_does_otherwise_than_its_config_seems_to_say_is_a_warning(words, said):
    kind = "full" if "lora_plus" in words else "lora"
    config, _ = parse(f"--config=configs/math_ift.py:smoke,{kind}", *words.split())
    (found,) = checks.warnings(config, 6)
    assert re.search(said, found)


def test_ordinary_configs_have_no_warnings():
    for words in ("", "full", "smoke", "paper", "paper,full"):
        assert not checks.warnings(parse(f"--config=configs/math_ift.py:{words}")[0], 32)
    beyond = parse("--config=configs/math_ift.py", "--config.checkpoint.every=500")[0]
    assert not checks.warnings(beyond, 32) and checks.warnings(beyond, 300)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("full,r=4", "full has no rank: leave out r=4"),
        ("ia3,alpha=4", "ia3 has no rank: leave out alpha=4"),
        ("full_linear,r=4", "full_linear has no rank: leave out r=4"),
        ("full,full_linear", "full and full_linear contradict each other: both say what trains"),
        ("full_linear,mlp", "leave out mlp"),
        ("full,lora", "full and lora contradict each other: both say what trains"),
        ("lora,dora", "lora and dora contradict .* one word, such as lora\\+bottleneck"),
        ("qlora,full", "contradict each other"),
        ("r=4,r=8", "r=4 and r=8 contradict each other: give one"),
        ("steps=4,epochs=2", "both say how long"),
        ("attention,mlp", "both say what is adapted; all is every module"),
        ("full,attention", "leave out attention"),
        ("paper,smoke", "each is a whole protocol"),
        ("smoke,13b", "both name the model"),
    ],
)
def test_words_that_contradict_each_other_are_refused_in_one_line(words, said):
    with pytest.raises(UserError, match=said) as error:
        parse(f"--config=configs/math_ift.py:{words}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("word", ["True", "true", "1", "False", "no", "None"])
def test_a_project_of_weights_and_biases_is_named_not_switched_on(word):
    with pytest.raises(
        UserError, match=rf"config.log.wandb='{word}' must be the name .* --config.log.wandb=lfl;"
    ):
        parse("--config=configs/math_ift.py:smoke", f"--config.log.wandb={word}")
    assert (
        parse("--config=configs/math_ift.py:smoke", "--config.log.wandb=lfl")[0].log.wandb == "lfl"
    )


def test_rows_beyond_a_sliding_window_are_warned_of_once_with_what_to_set():
    config, _ = parse(
        "--config=configs/math_ift.py:smoke",
        "--config.data.seq_len=300",
        "--config.eval.seq_len=200",
    )
    assert checks.warnings(config, 100, None) == checks.warnings(config, 100, 300) == []
    (said,) = checks.warnings(config, 100, 256)
    assert (
        "sliding window of 256 tokens (config.data.seq_len=300) are" in said
        and "set at most 256" in said
    )
    (said,) = checks.warnings(config, 100, 100)
    assert "(config.data.seq_len=300 and config.eval.seq_len=200)" in said


def test_the_steps_to_profile_are_two_numbers_within_the_run():
    for wrong in ("10", "3:2", "0:1", "a:b"):
        with pytest.raises(UserError, match="must be FIRST:LAST"):
            parse("--config=configs/math_ift.py:smoke", f"--config.log.profile={wrong}")
        with pytest.raises(UserError, match="config.log.profile.* must be FIRST:LAST"):
            parse("--config=configs/math_ift.py:smoke", f"--profile={wrong}")
    config, _ = parse("--config=configs/math_ift.py:smoke", "--profile", "10:15")
    assert config.log.profile == "10:15"
    with pytest.raises(UserError, match="--profil: did you mean --profile"):
        parse("--config=configs/math_ift.py:smoke", "--profil=10:15")
    assert checks.warnings(config, 15) == [] and "no profile" in checks.warnings(config, 9)[0]
