"""Models, datasets and tokenizers we use but did not write: what they are and where they lie on
this machine.

assets.path("smollm2-135m", "model.gguf")   # UserError with the fetch command when it is not there
assets.is_cached("hellaswag")
assets.local("hf:ORG/NAME")                # a path as it is, or a hub's files, fetched first
assets.provenance("hellaswag")              # licence, origin, hashes: what every result row records
"""

from lfl_jax.assets.cache import is_cached, licence, path, provenance, root, scratch, writable
from lfl_jax.assets.fetching import local, origin
from lfl_jax.assets.manifest import Hub, Item, Wheel, groups, item, manifest, select

__all__ = [
    "Hub",
    "Item",
    "Wheel",
    "groups",
    "is_cached",
    "item",
    "licence",
    "local",
    "manifest",
    "origin",
    "path",
    "provenance",
    "root",
    "scratch",
    "select",
    "writable",
]
