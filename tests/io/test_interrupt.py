"""Signals as a flag: first asks, second Ctrl-C ends, handlers are put back."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import jax
import pytest

from lfl_jax.core import hosts
from lfl_jax.errors import Interrupter, NonFiniteLoss, was_asked_to_stop
from lfl_jax.io.interrupt import Stop, interrupts


@pytest.fixture(autouse=True)
def _same_handlers_after() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_sets_the_flag(number: signal.Signals) -> None:
    with interrupts() as stop:
        assert not stop.requested and stop.signal is None
        signal.raise_signal(number)
        assert stop.requested and stop.signal == number and stop.requested_anywhere()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_ctrl_c_after_that_raises(first: signal.Signals) -> None:
    with interrupts() as stop:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handlers_before_hear_of_a_request_that_an_error_overtook() -> None:
    handler = Interrupter()
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(NonFiniteLoss), interrupts():
            assert not was_asked_to_stop()
            signal.raise_signal(signal.SIGTERM)
            raise NonFiniteLoss
        assert was_asked_to_stop()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_has_a_flag_without_handlers() -> None:
    seen = []

    def work() -> None:
        with interrupts() as stop:
            seen.append((stop.requested, stop.requested_anywhere()))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, False)]
    assert signal.getsignal(signal.SIGINT) is before


LOOP = """
import time
from lfl_jax.io.interrupt import interrupts
with interrupts() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
print("saved after", stop.signal.name, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_stop_saves_first(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == (f"saved after {number.name}\n", 0)


def exchanges(monkeypatch, step_seconds, told=None, steps=3000, ask_at=()):
    """(steps at which one of two processes exchanges with the other, what it then tells).

    step_seconds: by its own clock. told: what process 0 tells; None for process 0 itself.
    """
    clock, asked, telling, step = [0.0], [], [], 0
    answers = iter(told or ())

    def gather(value):
        asked.append(step)
        telling.append(value)
        return [value if told is None else next(answers), value]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "gather", gather)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stop = Stop()
    for step in range(1, steps + 1):
        clock[0] += step_seconds
        assert not stop.requested_anywhere(ask=step in ask_at)
    return asked, telling


def test_processes_exchange_every_few_seconds_and_not_at_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 3000 steps of 10 ms are 30 s: every 5 s, after the first step
    asked, _ = exchanges(monkeypatch, 0.01)
    assert asked[0] == 1 and len(asked) <= 8
    # steps that are longer than that wait for an exchange each, and no more
    assert exchanges(monkeypatch, 60.0, steps=20)[0] == list(range(1, 21))
    # evaluations ask besides
    asked, _ = exchanges(monkeypatch, 0.01, ask_at=(100, 2000))
    assert {100, 2000} <= set(asked) and len(asked) <= 11


def test_processes_with_different_clocks_exchange_at_the_same_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, told = exchanges(monkeypatch, 0.013, ask_at=(500,))
    for step_seconds in (0.01, 0.5):
        assert exchanges(monkeypatch, step_seconds, told, ask_at=(500,))[0] == asked
