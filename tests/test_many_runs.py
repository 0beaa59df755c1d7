"""Many runs in one process, as a sweep in a notebook makes them."""

import os
from pathlib import Path

import pytest
from lfl_jax.configs import math_ift

from lfl_jax import optim, schedules, train
from lfl_jax.config import Config
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


@pytest.mark.slow
def test_programs_of_other_runs_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "MAX_PROGRAMS", 2)
    train_step.clear_cache()
    counts = []
    for i, lr in enumerate((1e-3, 1e-3, 2e-3, 3e-3)):
        train.run(train.Run(tiny(lr=lr), tmp_path / str(i)))
        counts.append(train_step._cache_size())
    assert counts == [1, 1, 2, 1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counted in Linux's /proc")
def test_fifty_runs_hold_no_more_than_one_and_its_programs(tmp_path: Path) -> None:
    rounds = []
    for i in range(51):
        train.run(train.Run(tiny(lr=1e-3 * (1 + i)), tmp_path / str(i)))
        if i % train.MAX_PROGRAMS == 2:
            rounds.append(held())
    first, last = rounds[1], rounds[-1]
    assert (
        last["descriptors"] <= first["descriptors"] + 3 and last["threads"] <= first["threads"] + 6
    ), rounds
    assert last["maps"] <= first["maps"] + 1000, rounds
