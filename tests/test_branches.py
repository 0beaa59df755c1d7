"""A cooldown branch of a long run is the short run from scratch, to the last bit."""

import dataclasses

import jax
import numpy as np
import pytest
from lfl_jax.configs import math_ift

from lfl_jax import schedules, train
from lfl_jax.config import Config
from lfl_jax.errors import UserError
from lfl_jax.run_setup import earlier_run


def config(steps, branch_from="", every=1, keep=20, **fields):
    c = math_ift.get_config("smoke")
    c.train.steps, c.train.branch_from = steps, str(branch_from)
    c.optim.schedule, c.optim.warmup_steps, c.optim.cooldown_fraction = "trapezoid", 2, 0.5
    c.checkpoint.every, c.checkpoint.keep = every, keep
    c.eval.tasks = c.eval.every_tasks = ("target_nll:1",)
    for name, value in fields.items():
        section, field = name.split("__")
        c[section][field] = value
    return Config.from_dict(c)


def learned(folder):
    return jax.device_get(earlier_run.restore(folder)[1].adapter)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    train.run(train.Run(config(12), folder))
    return folder


def test_a_branch_is_the_short_run_to_the_last_bit(long, tmp_path):
    train.run(train.Run(config(6), tmp_path / "scratch"))
    train.run(train.Run(config(6, branch_from=long), tmp_path / "branch"))
    steps = [
        line.split(",")[0]
        for line in (tmp_path / "branch" / "metrics.jsonl").read_text().splitlines()
    ]
    assert not any('"step": 3' in step for step in steps) and any(
        '"step": 4' in step for step in steps
    )
    scratch, branch, whole = (
        learned(tmp_path / "scratch"),
        learned(tmp_path / "branch"),
        learned(long),
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, scratch, branch))
    assert not jax.tree.all(jax.tree.map(np.array_equal, scratch, whole))


def test_a_branch_needs_a_checkpoint_and_the_same_config(long, tmp_path):
    with pytest.raises(UserError, match="differs in optim.lr was 0.001, now 0.01"):
        train.run(train.Run(config(6, branch_from=long, optim__lr=0.01), tmp_path / "a"))
    late = tmp_path / "late"
    train.run(train.Run(config(12, every=0), late))
    with pytest.raises(
        UserError, match="no checkpoint at or before step 3, where the cooldown of 6 steps begins"
    ):
        train.run(train.Run(config(6, branch_from=late), tmp_path / "b"))
    with pytest.raises(UserError, match="branch_from needs config.optim.schedule=trapezoid"):
        config(6, branch_from=long, optim__schedule="cosine")


@pytest.mark.parametrize(
    ("billions", "steps", "falls"),
    [(0.25, 318, 1000), (0.5, 636, 1000), (1, 1272, 1018), (20, 25431, 20345)],
)
def test_token_budgets_are_the_papers_steps(billions, steps, falls):
    found = round(billions * 1e9 / (192 * 4096))
    assert found == steps
    optim = dataclasses.replace(config(6).optim, warmup_steps=1000, cooldown_fraction=0.2)
    assert schedules.cooldown_start(optim, found) == falls
