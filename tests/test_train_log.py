"""Runs whose loss leaves every sensible range: stopped by a rule, and said where they end."""

import math

import pytest
from lfl_jax.configs import math_ift

from lfl_jax import train
from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.errors import NonFiniteLoss
from lfl_jax.report.describe import flags
from lfl_jax.train_log import FLAGGED, STOPPED, Losses

V = 1000


def losses(*values):
    found = Losses(V)
    for step, value in enumerate(values, 1):
        found.add(step, value * math.log(V))
    return found


def test_a_run_is_stopped_at_an_absurd_loss():
    assert losses(0.9, 1.01 * STOPPED).has_diverged
    assert not losses(0.9, 0.99 * STOPPED).has_diverged


def test_a_loss_far_above_guessing_is_said_also_of_a_run_that_guesses_since():
    assert losses(*[1.2] * 30).provenance() == {} == losses().provenance()
    found = losses(0.5, 1.01 * FLAGGED, 1.0).provenance()
    assert "its loss was 20.9 nats/token at step 2, of uniform guesses 6.91" in str(found)
    base = {"dequantised_from": None, "source": "files"}
    assert flags({"base": base, **found}) == [found["diverged"]]


def run(folder, **fields):
    c = math_ift.get_config("smoke,full")
    c.eval.tasks, c.eval.every_tasks, c.log.tensorboard = (), (), False
    c.train.steps = 14
    c.optim.update(fields)
    return train.run(train.Run(Config.from_dict(c), folder, quiet=True))


def test_a_run_with_an_absurd_learning_rate(tmp_path):
    with pytest.raises(NonFiniteLoss, match="more than 100 times that of uniform guesses.*Lower"):
        run(tmp_path / "stopped", lr=1e3)
    steps = [x["step"] for x in files.read_jsonl(tmp_path / "stopped" / "metrics.jsonl")]
    assert max(steps) < 14
    # Of a sensible one nothing is said.
    assert "diverged" not in run(tmp_path / "ended", lr=1e-3).facts["provenance"]
