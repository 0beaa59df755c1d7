"""A trace of the steps that were asked for, and of no others."""

import jax
import jax.numpy as jnp
import pytest

from lfl_jax.io.profile import Profiler


@pytest.fixture(autouse=True)
def _cache_as_before():
    option = "jax_compilation_cache_include_metadata_in_key"
    before = getattr(jax.config, option)
    yield
    jax.config.update(option, before)


def traced(steps, folder, monkeypatch, total=4):
    """Numbers of the steps that ran inside a trace, and how often one was begun and ended."""
    log = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda place: log.append(f"start {place}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: log.append("stop"))
    with Profiler(steps, folder) as profiler:
        for step in range(1, total + 1):
            profiler.before(step)
            log.append(step)
            profiler.after(step, jnp.ones(1))
    return log


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("", [1, 2, 3, 4]),
        ("2:3", [1, "start", 2, 3, "stop", 4]),
        ("3:9", [1, 2, "start", 3, 4, "stop"]),
        ("7:8", [1, 2, 3, 4]),
    ],
)
def test_a_trace_spans_its_steps_and_ends_with_the_run(steps, expected, tmp_path, monkeypatch):
    place = f"start {tmp_path}/profile"
    assert traced(steps, tmp_path, monkeypatch) == [place if x == "start" else x for x in expected]


def test_a_trace_is_written(tmp_path):
    with Profiler("1:1", tmp_path) as profiler:
        profiler.before(1)
        profiler.after(1, jax.jit(lambda x: x @ x)(jnp.ones((8, 8))))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
