"""The commands of the package, a line each: `python -m lfl_jax`."""

import ast
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from lfl_jax.errors import UserError, entry

COMMANDS = (
    *("main", "doctor", "plan", "study", "evaluate", "compare", "analyze"),
    *("export", "fetch", "inspect_data"),
)


def main(argv: Sequence[str]) -> None:
    """Print what there is; a command is run as python -m lfl_jax.COMMAND."""
    given = list(argv)[1:]
    if "--version" in given:
        print(version("lfl_jax"))
        return
    if given and given[0] not in ("-h", "--help"):
        name = given[0] if given[0] in COMMANDS else COMMANDS[0]
        raise UserError(
            f"a command is one word with a dot: python -m lfl_jax.{name} (python -m lfl_jax lists"
            " them)"
        )
    print(f"lfl_jax {version('lfl_jax')}\n")
    for name in COMMANDS:
        print(f"  python -m lfl_jax.{name:<14}{about(name)}")
    print(
        "\nEach says more with --help. Configs: configs/*.py; every field with its legal values:"
        " docs/config.md."
    )


def about(name: str) -> str:
    """The first line of a command's documentation, read without importing what it needs."""
    source = Path(__file__).with_name(f"{name}.py").read_text("utf-8")
    return (
        (ast.get_docstring(ast.parse(source)) or "").splitlines()[0].partition(":")[0].rstrip(".")
    )


if __name__ == "__main__":
    entry(main, sys.argv)
