"""Bring hub repositories into the cache, through huggingface_hub.

What arrives is compared with the hub's listing and reaches its place by one rename; an interrupted
download resumes.
"""

import dataclasses
import glob
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from lfl_jax.assets import cache, hub_names
from lfl_jax.assets.manifest import Hub, Item
from lfl_jax.core import files
from lfl_jax.errors import UserError

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True)
class _Listing:
    """A repository at a commit.

    files: {file: (bytes or None, SHA-256 or None)}; only large files have a SHA-256. card: the
    metadata of its README.
    """

    commit: str
    files: dict[str, tuple[int | None, str | None]]
    card: dict[str, Any]
    licence: str


def fetch(item: Item) -> None:
    """Download the files of a hub item, with the hub's own progress bars.

    The listing is asked for first: without it, an incomplete folder would be taken for the whole
    repository. Raises UserError for what is missing, gated or offline, and for a hub that answers
    with another commit than asked for.
    """
    import huggingface_hub
    from huggingface_hub import errors

    hub, folder = item.origin, cache.root() / f".hub-{item.folder}"
    repository = {"repo_id": hub.repo, "repo_type": hub.repo_type}
    try:
        listing = _list(
            item,
            huggingface_hub.HfApi().repo_info(
                **repository, revision=hub.revision, files_metadata=True
            ),
        )
        wanted = _wanted(item, listing)
        huggingface_hub.snapshot_download(
            **repository,
            revision=listing.commit,  # a branch may move meanwhile
            allow_patterns=[glob.escape(file) for file in wanted],
            local_dir=folder,
        )
    # Every hub and connection error is one of these.
    except (OSError, ValueError, errors.HTTPError) as error:
        raise UserError(_failure(item.name, hub, error)) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub's notes for resuming
    for file in wanted:
        _check(folder / file, *listing.files[file], hub)
    _check_pins(folder, wanted, item, listing.commit)
    if hub_names.is_hub(item.name):
        item = dataclasses.replace(item, licence=listing.licence)
    cache.install(folder, item, commit=listing.commit)


def _list(item: Item, info: object) -> _Listing:
    """The listing of a ModelInfo or DatasetInfo, whose library is imported for downloads only."""
    hub = item.origin
    # A commit names its content: another one in its place would be another model under this name.
    if COMMIT.fullmatch(hub.revision) and info.sha != hub.revision:
        raise UserError(
            f"{item.name}: asked for commit {hub.revision[:12]}, the hub answered with"
            f" {str(info.sha)[:12]}"
        )
    files = {
        entry.rfilename: (entry.size, entry.lfs.sha256 if entry.lfs else None)
        for entry in info.siblings or ()
    }
    card = getattr(info, "card_data", None)
    card = {} if card is None else card.to_dict()
    return _Listing(info.sha, files, card, str(card.get("license") or "unknown"))


def _wanted(item: Item, listing: _Listing) -> list[str]:
    """Names of the files to take; UserError for none, or for one outside of the folder."""
    import huggingface_hub

    hub, files = item.origin, list(listing.files)
    if hub_names.is_hub(item.name):
        wanted = hub_names.choose(hub_names.parse(item.name), files, listing.card)
    else:
        wanted = sorted(
            huggingface_hub.utils.filter_repo_objects(files, allow_patterns=list(hub.patterns))
        )
    if not wanted:
        raise UserError(
            f"{item.name}: {hub.repo} at {hub.revision} has no file like {', '.join(hub.patterns)}"
        )
    for file in wanted:
        # The listing comes from outside: no name of it may lead out of the item's folder.
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or "\\" in file:
            raise UserError(
                f"{item.name}: {hub.repo} lists {file!r}, which is no file of its own;"
                " nothing was taken"
            )
    return wanted


def _check(file: Path, size: int | None, sha256: str | None, hub: Hub) -> None:
    whole = file.is_file() and (size is None or file.stat().st_size == size)
    if not whole or (sha256 is not None and files.sha256(file) != sha256):
        file.unlink(missing_ok=True)  # so that the next fetch takes it again
        raise UserError(
            f"{hub.repo}: {file.name} arrived damaged and was removed; run the same command again"
        )


def _check_pins(folder: Path, wanted: list[str], item: Item, commit: str) -> None:
    """UserError where content is not what the manifest pins, or this cache had of the same commit.

    The listing is the hub's own, so that it says nothing about a hub, or a mirror, that lies.
    """
    pinned = cache.hashes_at(item, commit) | dict(item.origin.sha256)
    missing = sorted(set(dict(item.origin.sha256)) - set(wanted))
    changed = [x for x in wanted if x in pinned and files.sha256(folder / x) != pinned[x]]
    if missing or changed:
        shutil.rmtree(folder, ignore_errors=True)
        problem = f"lacks {missing[0]}" if missing else f"has another {changed[0]}"
        raise UserError(
            f"{item.name}: {item.origin.repo} at {commit[:12]} {problem} than is pinned by its"
            " SHA-256; nothing was taken"
        )


def _failure(name: str, hub: Hub, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name}: {hub.repo} is gated. Accept its licence on its hub page, then run"
            " `hf auth login` (or set HF_TOKEN) and fetch again."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        where = "" if hub_names.is_hub(name) else "; correct it in third_party/manifest.toml"
        return f"{name}: {hub.repo} has no branch, tag or commit {hub.revision}{where}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{name}: the hub does not show {hub.repo} to you. Is its name right?"
            " If it is gated, accept its licence on its hub page, run `hf auth login`"
            " (or set HF_TOKEN) and fetch again."
        )
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"{name}: cannot download {hub.repo} from the hub: {reason[0]} (offline?)\n"
        "Nothing was changed; run the same command again and it resumes."
    )
