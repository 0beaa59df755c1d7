"""A run's figures over all of its starts."""

import json
import statistics
import time

import pytest

from lfl_jax.io import throughput
from lfl_jax.io.throughput import Meter


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def steps(meter, clock, seconds, tokens=10):
    for second in seconds:
        clock[0] += second
        meter.tick(tokens)


def test_evaluations_and_first_steps_are_not_timed(clock):
    meter = Meter(90.0)
    steps(meter, clock, [30, 2, 2])
    with meter.paused():
        clock[0] += 50
    steps(meter, clock, [7, 5])
    facts = meter.facts()
    assert (facts["tokens"], facts["tokens_per_s"], facts["training_seconds"]) == (50, 5.0, 9.0)
    assert facts["wall_seconds"] == 10 + 34 + 50 + 12


def test_figures_are_summed_over_resumes(clock):
    first = Meter(100.0)
    steps(first, clock, [1, 1, 1, 1])
    carried = json.loads(json.dumps(first.state()))
    steps(first, clock, [1, 1])  # lost: after its last checkpoint
    second = Meter(clock[0])
    second.resume(carried)
    steps(second, clock, [20, 4, 4])
    facts = second.facts()
    assert (facts["tokens"], facts["training_seconds"], facts["wall_seconds"], facts["starts"]) == (
        70,
        11.0,
        32.0,
        2,
    )
    assert facts["tokens_per_s"] == statistics.median([10, 10, 10, 2.5, 2.5])


def test_what_a_checkpoint_carries_is_bounded(clock, monkeypatch):
    monkeypatch.setattr(throughput, "KEPT_RATES", 8)
    meter = Meter(100.0)
    steps(meter, clock, [1.0 + i % 7 for i in range(200)], tokens=60)
    assert len(meter.state()["rates"]) <= 8 and meter.facts()["tokens_per_s"] == pytest.approx(
        15, abs=15
    )
    assert meter.facts()["training_seconds"] == sum(1.0 + i % 7 for i in range(200)) - 1
