"""Commands that are told to stop end in a line, whatever they were doing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lfl_jax import errors
from lfl_jax.core import files
from lfl_jax.io.interrupt import interrupts

COMMAND = """
import sys, time
from lfl_jax.errors import entry
def main(argv):
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        print("cleaned up", flush=True)
        time.sleep(float(argv[1]))
entry(main)
"""


def started(seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_stop_says_so_in_a_line(number):
    process = started(0)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and out == "cleaned up\n"
    assert err == "interrupted; the same command goes on where it was\n"


def test_a_second_ctrl_c_is_no_traceback():
    process = started(30)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaned up\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert "Traceback" not in err and process.returncode in (130, -signal.SIGINT)


def test_an_ignored_hangup_stays_ignored():
    """As with nohup, which is a shell's `trap ''`."""
    command = COMMAND.replace("time.sleep(30)", "time.sleep(1)")
    process = subprocess.Popen(
        ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable, "-c", command, "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=20)[0] == "cleaned up\n" and process.returncode == 0


def test_a_request_whose_exception_was_lost_stops_the_run_that_begins():
    handler = errors.Interrupter()
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with interrupts() as stop:
            assert stop.requested
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_after_a_hangup_nothing_is_written_to_the_terminal_that_is_gone():
    """The other end of a pseudo-terminal closes: prints would raise from then on."""
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "0"], stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    assert os.read(controller, 100).startswith(b"ready")
    os.close(controller)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=20) == 130


def test_a_full_disk_has_an_exit_code_of_its_own(tmp_path):
    def full(argv):
        with files.replacing(tmp_path / "results.json"):
            raise OSError(28, "No space left on device")

    with pytest.raises(SystemExit) as stopped:
        errors.entry(full, [])
    assert stopped.value.code == errors.NO_ROOM == 4
    # Of a file's largest size (ulimit -f), too; of a mistake, not.
    assert errors.exit_code(OSError(27, "File too large")) == 4
    assert errors.exit_code(errors.UserError("no such task")) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts small file systems")
def test_starts_on_many_small_disks(tmp_path):
    script = Path(__file__).with_name("full_disk.py")
    command = ["unshare", "-m", sys.executable, str(script), str(tmp_path / "disks")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
