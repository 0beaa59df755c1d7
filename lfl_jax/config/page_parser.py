"""The command line of an entry point whose help is its own page, the docstring of its module."""

import argparse
import shlex
from collections.abc import Sequence
from typing import NoReturn

from lfl_jax.errors import UserError


class PageParser(argparse.ArgumentParser):
    """Prints the page for --help; mistakes are said as everywhere, in a line (UserError)."""

    def __init__(self, command: str, page: str) -> None:
        super().__init__(prog=f"python -m lfl_jax.{command}", description=page)

    def format_help(self) -> str:
        """The page; argparse's own listing of flags would say it a second time."""
        return self.description.strip("\n") + "\n"

    def error(self, message: str) -> NoReturn:
        """Called by argparse for what it does not understand."""
        raise UserError(f"{message} (--help says more)")

    def texts(self, *names: str) -> None:
        """Flags --NAME=TEXT, empty where they are not given."""
        for name in names:
            self.add_argument(f"--{name}", default="")

    def command_line(self, argv: Sequence[str]) -> str:
        """The command as it was typed, to be run again from a report."""
        return " ".join([self.prog, *map(shlex.quote, argv[1:])])
