"""What we use but did not write: the items of `third_party/manifest.toml` as frozen values."""

import dataclasses
import difflib
import functools
import importlib.resources
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lfl_jax.assets import hub_names
from lfl_jax.errors import UserError

KINDS = ("model", "adapter", "dataset", "tokenizer")


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries data; `bytes` and `sha256` are those of the wheel file."""

    package: str
    version: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Hub:
    """Files of a hub repository at a commit or branch, chosen by glob patterns.

    repo_type: model or dataset. sha256: (file, its hash) of those that are pinned by content, too:
    a commit is only what the hub says of itself.
    """

    repo: str
    repo_type: str
    revision: str
    patterns: tuple[str, ...]
    bytes: int | None  # the whole download, where it is known
    sha256: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Item:
    """One entry; `files` are (member of the wheel, name in the cache), empty for hub items.

    rank: of an adapter, as its name says.
    """

    name: str
    kind: str
    licence: str
    about: str
    origin: Wheel | Hub
    files: tuple[tuple[str, str], ...]
    rank: int | None = None

    @property
    def folder(self) -> str:
        """Its folder in the cache: the name, with -- for what a folder's name cannot contain."""
        return re.sub(r"[:/]+", "--", self.name) if hub_names.is_hub(self.name) else self.name


@dataclass(frozen=True)
class Manifest:
    """All items and the groups that name several at once."""

    items: dict[str, Item]
    groups: dict[str, tuple[str, ...]]


@functools.cache
def read() -> Manifest:
    """The manifest installed with the package."""
    try:
        folder = importlib.resources.files("lfl_jax.third_party")
    # third_party/ is beside the package in a checkout; only an installation puts it inside.
    except ModuleNotFoundError as error:
        raise UserError(
            "lfl_jax is not installed, only on the path, so its manifest cannot be found.\n"
            "Run `pip install -e .` in the checkout."
        ) from error
    return parse((folder / "manifest.toml").read_text(encoding="utf-8"))


def manifest() -> dict[str, Item]:
    """Every item by name."""
    return read().items


def groups() -> dict[str, tuple[str, ...]]:
    """Names that stand for several items."""
    return read().groups


def parse(text: str) -> Manifest:
    """A manifest from its TOML text; an unknown or missing field raises TypeError or KeyError."""
    tables = tomllib.loads(text)
    wheels = {name: Wheel(package=name, **fields) for name, fields in tables["wheels"].items()}
    items = {name: _item(name, fields, wheels) for name, fields in tables["items"].items()}
    return Manifest(items, {name: tuple(members) for name, members in tables["groups"].items()})


def _item(name: str, fields: Mapping[str, Any], wheels: Mapping[str, Wheel]) -> Item:
    # What is left over describes the origin, as the manifest writes both in one table.
    of_item = {key: fields[key] for key in ("kind", "licence", "about")}
    of_item["rank"] = fields.get("rank")
    of_origin = {key: value for key, value in fields.items() if key not in of_item}
    if "wheel" not in of_origin:
        patterns = tuple(of_origin.pop("patterns"))
        pinned = tuple(of_origin.pop("sha256", {}).items())
        size = of_origin.pop("bytes", None)
        origin = Hub(patterns=patterns, bytes=size, sha256=pinned, **of_origin)
        return Item(name=name, origin=origin, files=(), **of_item)

    wheel = wheels[of_origin.pop("wheel")]
    files = tuple(of_origin.pop("files").items())
    # Hub's constructor refuses unknown fields by itself.
    if of_origin:
        raise TypeError(f"manifest item {name}: unknown fields {sorted(of_origin)}")
    return Item(name=name, origin=wheel, files=files, **of_item)


def item(name: str) -> Item:
    """The item called `name`, NAME@REVISION for another branch or commit of a hub repository.

    A repository of the hub that the manifest does not know is an item, too: hf:ORG/NAME, as
    `hub_names` says. An unknown name is a user error that offers the nearest one.
    """
    if hub_names.is_hub(name):
        return _from_hub(hub_names.parse(name))
    plain, at, revision = name.partition("@")
    if plain not in manifest():
        raise UserError(_unknown(plain, list(manifest())))
    entry = manifest()[plain]
    if not at:
        return entry
    if not isinstance(entry.origin, Hub) or not re.fullmatch(r"[\w.-]+", revision):
        raise UserError(f"{name}: expected NAME@BRANCH, of an item from the hub")
    # The hashes are those of the manifest's own revision.
    origin = dataclasses.replace(entry.origin, revision=revision, sha256=())
    return dataclasses.replace(entry, name=name, origin=origin)


def _from_hub(name: hub_names.HubName) -> Item:
    """An item for any repository.

    Its licence is known when it is fetched, its files are chosen from the listing.
    """
    origin = Hub(name.repo, name.repo_type, name.revision, patterns=(), bytes=None)
    return Item(
        name.text, name.repo_type, "unknown", f"{name.repo} at {name.revision}", origin, files=()
    )


def select(names: Sequence[str]) -> tuple[Item, ...]:
    """The items that `names` (of items or groups) stand for, each once, in the order given."""
    selected: dict[str, Item] = {}
    for name in names:
        if not hub_names.is_hub(name) and name.partition("@")[0] not in (*groups(), *manifest()):
            raise UserError(_unknown(name, [*groups(), *manifest()]))
        selected |= {member: item(member) for member in groups().get(name, (name,))}
    return tuple(selected.values())


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"nothing called {name!r} can be fetched: {hint}`python -m lfl_jax.fetch --list` shows"
        " every name"
    )
