"""A manifest with one item of two small files, which is installed without a fetch."""

import importlib
from collections.abc import Callable
from pathlib import Path

from lfl_jax.assets import Item, cache

# The package's attribute of this name is a function.
manifest = importlib.import_module("lfl_jax.assets.manifest")

FILES = '{ "m/a.txt" = "a.txt", "m/b.txt" = "deep/b.txt" }'
TEXT = f"""
[wheels.pkg]
version = "1.0"
sha256 = "00"
bytes = 3
[items.toy]
kind = "dataset"
licence = "MIT"
about = "a toy"
wheel = "pkg"
files = {FILES}
[groups]
toys = ["toy"]
"""


def pretend(
    put: Callable[[object, str, object], None], text: str = TEXT, name: str = "toy"
) -> Item:
    """Put the manifest of this text in place of the package's; its item of this name.

    put: setattr, or a test's monkeypatch.setattr.
    """
    toy = manifest.parse(text)
    put(manifest, "read", lambda: toy)
    return toy.items[name]


def install(item: Item) -> Path:
    """What a fetch of the item does once it has the files; the folder of the cache."""
    with cache.exclusive(), cache.staging() as folder:
        (folder / "toy" / "deep").mkdir(parents=True)
        (folder / "toy" / "a.txt").write_text("first")
        (folder / "toy" / "deep" / "b.txt").write_text("second")
        return cache.install(folder / "toy", item)
