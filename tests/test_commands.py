"""`python -m lfl_jax` lists every command; the version is said where it is asked for."""

import importlib.metadata
from pathlib import Path

import pytest

import lfl_jax
from lfl_jax import __main__ as listing
from lfl_jax.config import command_line
from lfl_jax.errors import UserError

FILES = Path(lfl_jax.__file__).parent.glob("*.py")


def test_every_command_is_listed_with_a_line_that_fits(capsys):
    listing.main(["lfl_jax"])
    lines = capsys.readouterr().out.splitlines()
    entries = {file.stem for file in FILES if "\n    entry(main" in file.read_text()}
    assert set(listing.COMMANDS) == entries - {"__main__"}
    for name in listing.COMMANDS:
        (line,) = (line for line in lines if f"lfl_jax.{name} " in line)
        assert len(line) <= 100 and len(listing.about(name)) > 15


def test_a_command_given_as_a_word_is_answered_with_its_form():
    with pytest.raises(UserError, match=r"python -m lfl_jax.fetch \("):
        listing.main(["lfl_jax", "fetch", "--list"])


def test_the_version(capsys):
    assert lfl_jax.__version__ == importlib.metadata.version("lfl_jax")
    listing.main(["lfl_jax", "--version"])
    with pytest.raises(SystemExit):
        command_line.parse(["main", "--version"], "", {})
    assert capsys.readouterr().out.split() == [lfl_jax.__version__] * 2
