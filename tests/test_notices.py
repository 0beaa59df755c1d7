"""Warnings of a run: one line each on stderr, and a list for its results."""

import io
import os
import subprocess
import sys

import pytest

from lfl_jax import errors, notices


def test_a_warning_is_printed_and_collected_once(capsys):
    with notices.collected() as texts:
        notices.warn("the warmup is\n longer than the run")
        notices.warn("another")
        notices.warn("another")
    notices.warn("after the run")
    assert texts == ["the warmup is longer than the run", "another"]
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {text}" for text in (*texts, "after the run")
    ]


def test_only_the_first_process_prints(capsys, monkeypatch):
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with notices.collected() as texts:
        notices.warn("seen by all, said by one")
    assert texts == ["seen by all, said by one"] and capsys.readouterr().err == ""


def test_control_characters_are_written_out():
    text = "\x1b]0;title\x1b\\ \x9b8m \u202eright to left\tand\nplain é 中"
    assert (
        errors.printable(text)
        == r"\x1b]0;title\x1b" + "\\ " + r"\x9b8m \u202eright to left" + "\tand\nplain é 中"
    )


@pytest.mark.parametrize("count", [1, 3])
def test_mistakes_are_numbered_when_there_are_several(count):
    said = str(errors.mistakes([f"mistake {i}" for i in range(count)]))
    assert said == (
        "mistake 0" if count == 1 else "3 mistakes:\n  1. mistake 0\n  2. mistake 1\n  3. mistake 2"
    )


def test_an_entry_point_replaces_what_a_terminal_cannot_show():
    code = (
        "from lfl_jax.errors import entry, UserError\n"
        "def main(argv):\n    print('±3 \\udc80')\n    raise UserError('naïve \\x1b[8m')\n"
        "entry(main)"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, b"?3 ?\n", b"error: na?ve \\x1b[8m\n")


def test_streams_that_cannot_be_configured_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    errors.entry(lambda argv: print("±"), [])
    assert sys.stdout.getvalue() == "±\n"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        errors.entry(lambda argv: (tmp_path / "file" / "run").mkdir(), [])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: cannot use {tmp_path}/file/run: Not a directory\n"
