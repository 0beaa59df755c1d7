"""Many runs in one process, as a sweep in a notebook makes them."""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lfl_jax.configs import math_ift

from lfl_jax import optim, schedules, train
from lfl_jax.config import Config
from lfl_jax.core.sharding import make_rules
from lfl_jax.models.presets import PRESETS
from lfl_jax.run_setup import base_model, starting
from lfl_jax.train_step import train_step


def tiny(steps: int = 2, lr: float = 1e-3) -> Config:
    c = math_ift.get_config("smoke,lora")
    c.train.steps, c.optim.lr, c.checkpoint.every, c.data.size, c.data.seq_len = (
        steps,
        lr,
        0,
        16,
        256,
    )
    c.eval.tasks, c.eval.every_tasks, c.eval.decontaminate, c.log.tensorboard = (), (), False, False
    return Config.from_dict(c)


def held() -> dict[str, int]:
    """What this process holds of the system."""
    maps = Path("/proc/self/maps").read_text().count("\n")
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "maps": maps,
    }


def test_equal_runs_share_their_optimizer() -> None:
    one, other = tiny().optim, tiny().optim
    assert optim.make(one, schedules.make(one, 5)) is optim.make(other, schedules.make(other, 5))
    assert optim.make(one, schedules.make(one, 5)) is not optim.make(one, schedules.make(one, 6))


def test_runs_of_other_rates_share_their_program() -> None:
    first, config = tiny().optim, tiny(lr=5e-3).optim
    second = dataclasses.replace(config, weight_decay=0.1)
    makers = [optim.make(config, schedules.make(config, 5)) for config in (first, second)]
    assert makers[0] == makers[1] and hash(makers[0]) == hash(makers[1])
    # What differs is in the state: the first step of each is by its own rate and decay.
    weights = {"w": jnp.full(3, 2.0)}
    for config in (first, second):
        flat = dataclasses.replace(config, schedule="constant", warmup_fraction=0.0)
        tx = optim.make(flat, schedules.make(flat, 5))
        updates, _ = tx.update(weights, tx.init(weights), weights)
        expected = -config.lr - config.weight_decay * 2.0
        assert np.allclose(updates["w"], expected, rtol=1e-5)
    longer = dataclasses.replace(first, final_fraction=0.3, warmup_fraction=0.5)
    assert makers[0] == optim.make(longer, schedules.make(longer, 50))
    linear = dataclasses.replace(first, schedule="linear")
    assert makers[0] != optim.make(linear, schedules.make(linear, 5))
    other = dataclasses.replace(first, b1=0.5)
    assert makers[0] != optim.make(other, schedules.make(other, 5))


def test_runs_of_one_shape_share_what_draws_their_first_values() -> None:
    rules, cfg = make_rules(devices=jax.devices()[:1]), PRESETS["tiny"]
    one, other = (starting._initialiser(cfg, tiny(lr=lr).adapter, rules) for lr in (1e-3, 1e-2))
    assert one is other
    wider = dataclasses.replace(tiny().adapter, rank=3)
    assert starting._initialiser(cfg, wider, rules) is not one
    built = [base_model._builder(cfg, dtype, rules) for dtype in ("float32", "float32", "bfloat16")]
    assert built[0] is built[1] is not built[2]


@pytest.mark.slow
def test_programs_of_other_runs_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "MAX_PROGRAMS", 2)
    train_step.clear_cache()
    counts, others = [], jax.jit(lambda x: x + 1)
    others(1.0)
    # Runs that differ in learning rate or length share their program, those of another decay not.
    for i, (steps, lr, b2) in enumerate(
        ((2, 1e-3, 0.9), (2, 3e-3, 0.9), (3, 1e-3, 0.9), (2, 1e-3, 0.8), (2, 1e-3, 0.7))
    ):
        config = tiny(steps, lr)
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, b2=b2))
        train.run(train.Run(config, tmp_path / str(i)))
        counts.append(train_step._cache_size())
    assert counts == [1, 1, 1, 2, 1]
    assert others._cache_size() == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counted in Linux's /proc")
def test_fifty_runs_hold_no_more_than_one_and_its_programs(tmp_path: Path) -> None:
    rounds = []
    for i in range(51):
        # Another decay of the second moment is another program.
        config = tiny()
        optimizer = dataclasses.replace(config.optim, b2=0.9 + 1e-3 * i)
        config = dataclasses.replace(config, optim=optimizer)
        train.run(train.Run(config, tmp_path / str(i)))
        if i % train.MAX_PROGRAMS == 2:
            rounds.append(held())
    first, last = rounds[1], rounds[-1]
    assert (
        last["descriptors"] <= first["descriptors"] + 3 and last["threads"] <= first["threads"] + 6
    ), rounds
    assert last["maps"] <= first["maps"] + 1000, rounds
