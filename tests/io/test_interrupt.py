"""Signals as a flag: first asks, second Ctrl-C ends, handlers are put back."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from lfl_jax.io.interrupt import interrupts


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
