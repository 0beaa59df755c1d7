"""The paper's protocol, field by field: the numbers here are typed from its appendix A, not from
our configs."""

import importlib
import math

import numpy as np
import pytest

from lfl_jax import config as configs
from lfl_jax import schedules
from lfl_jax.assets.published import published
from lfl_jax.config import command_line
from lfl_jax.errors import UserError

# setting: data, sequence, batch, full, LoRA of ranks 16, 64, 256, weight decay
TABLE = {
    "code_cpt": ("starcoder_python", 4096, 192, 1e-5, (1e-5, 1e-5, 1e-5), 1e-6),
    "math_cpt": ("openwebmath", 4096, 192, 1e-5, (4e-5, 4e-5, 4e-5), 0.0),
    "code_ift": ("magicoder", 4096, 192, 5e-5, (2e-4, 2e-4, 1e-4), 0.0),
    "math_ift": ("metamath", 1024, 768, 1e-5, (1e-4, 1e-4, 5e-5), 0.0),
}
LINEAR = ("q", "k", "v", "o", "gate", "up", "down")


def parsed(name, words):
    return command_line.parse(["main", f"--config=configs/{name}.py:{words}"], "", {})[0]


@pytest.mark.parametrize("name", TABLE)
def test_the_papers_protocol(name):
    source, seq_len, batch, lr_full, lrs, decay = TABLE[name]
    for rank, lr in zip((16, 64, 256), lrs, strict=True):
        c = parsed(name, f"paper,r={rank}")
        assert (c.data.source, c.data.seq_len, c.train.batch) == (source, seq_len, batch)
        assert (c.optim.lr, c.optim.weight_decay, c.optim.clip) == (lr, decay, 1.0)
        assert (c.optim.name, c.optim.b1, c.optim.b2) == ("lionw", 0.9, 0.95)
        assert (c.adapter.rank, c.adapter.alpha, c.adapter.dropout) == (rank, None, 0.05), (
            "alpha is 2 r"
        )
        assert c.adapter.targets == LINEAR and c.model.name == "llama2-7b"
        assert (c.model.compute_dtype, c.trainable) == ("bfloat16", ("adapter/.*",))
    full = parsed(name, "paper,full")
    assert (
        full.optim.lr == lr_full and full.trainable == ("params/.*",) and full.adapter.dropout == 0
    )
    assert parsed(name, "paper,13b").model.name == "llama2-13b"


@pytest.mark.parametrize("name", TABLE)
def test_the_first_versions_protocol(name):
    c = parsed(name, "paper_v1,r=256")
    assert c.adapter.alpha == 32 and c.adapter.targets == tuple(t for t in LINEAR if t != "gate")
    assert parsed(name, "paper_v1,mlp").adapter.targets == ("up", "down")
    assert parsed(name, "paper,attention").adapter.targets == ("q", "k", "v", "o")


@pytest.mark.parametrize("name", ["code_ift", "math_ift"])
def test_instruction_finetuning_is_a_cosine_per_number_of_epochs(name):
    c = parsed(name, "paper,epochs=4")
    assert (c.train.epochs, c.train.steps, c.train.tokens) == (4, 0, 0)
    steps = 193 * 4
    found = schedules.make(c.optim, steps)
    warmup = round(0.1 * steps)
    for step in np.linspace(0, steps, 10).round():
        cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
        assert float(found(step)) == pytest.approx(
            step / warmup if step < warmup else cosine, abs=1e-6
        )


@pytest.mark.parametrize("name", ["code_cpt", "math_cpt"])
def test_continued_pretraining_is_a_trapezoid_over_20b_tokens(name):
    c = parsed(name, "paper")
    assert (c.train.tokens, c.train.steps, c.data.packing) == (20e9, 0, "concat")
    steps = round(c.train.tokens / (192 * 4096))
    assert steps == 25431
    found = schedules.make(c.optim, steps)
    for step in (0, 250, 500, 999, 1000, 10000, 20345, 21000, 23000, 25431):
        wanted = step / 1000 if step < 1000 else min(1.0, (25431 - step) / 5086)
        assert float(found(step)) == pytest.approx(wanted, abs=1e-6)
    assert parsed(name, "paper,tokens=4e9").train.tokens == 4e9


def test_code_is_measured_with_50_samples_and_maths_with_5_shots():
    code, maths = parsed("code_ift", "paper").eval, parsed("math_cpt", "paper").eval
    assert "humaneval" in code.tasks and (code.samples, code.temperature, code.top_p) == (
        50,
        0.2,
        0.95,
    )
    assert "gsm8k" in maths.tasks and (maths.shots, maths.shots_from) == (5, "lm_eval")
    for each in (code, maths):
        assert [t for t in each.tasks if "gauntlet" in t] == [
            "hellaswag_gauntlet", "arc_challenge_gauntlet", "winogrande_gauntlet",
        ]  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_each_setting_has_a_laptop_and_a_smoke_form(name):
    module = importlib.import_module(f"lfl_jax.configs.{name}")
    laptop = configs.Config.from_dict(module.get_config())
    assert laptop.model.name == "smollm2-135m" and laptop.train.steps > 0 and laptop.eval.tasks
    assert configs.Config.from_dict(module.get_config("smoke")).model.init == "random"
    with pytest.raises(ValueError, match=f"unknown argument nope of configs/{name}.py"):
        module.get_config("nope")


def test_published_values_are_whole():
    found = published()
    assert found["base"] == {"humaneval": 0.138, "gsm8k": 0.145, "forgetting": 0.671}
    for name in TABLE:
        length = len(found[name]["tokens_billions" if name.endswith("cpt") else "epochs"])
        measures = ("humaneval" if name.startswith("code") else "gsm8k", "forgetting")
        for measure in measures:
            rows = found[name][measure]
            assert list(rows) == ["r16", "r64", "r256", "full"] and {
                len(x) for x in rows.values()
            } == {length}
    assert (
        found["code_ift"]["humaneval"]["r256"][2] == 0.498
        and found["math_ift"]["gsm8k"]["full"][2] == 0.642
    )
    assert (
        found["code_cpt"]["forgetting"]["full"][-1] == 0.545
        and found["math_cpt"]["gsm8k"]["full"][-1] == 0.293
    )
    assert published("v1")["math_ift"]["gsm8k"]["LoRA, 4 epochs"] == 0.622
    with pytest.raises(UserError, match="not of 'v3'"):
        published("v3")
