"""Errors made for the person who caused them, and how an entry point reports them."""

import sys
from collections.abc import Callable, Sequence


class UserError(Exception):
    """A mistake in a config, a file or a command: one or two lines that say what to do. Exit code 2."""


class NonFiniteLoss(Exception):
    """Training produced a loss that is not a number. Exit code 3."""


def entry(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Run an entry point; expected mistakes end it with their message and exit code, others keep their traceback."""
    try:
        main(sys.argv if argv is None else argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except NonFiniteLoss as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
