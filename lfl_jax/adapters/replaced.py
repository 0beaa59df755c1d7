"""Which parameters came along with an adapter, as a part of its tree: PEFT's modules_to_save, or
what a run trained.

The parameters themselves lie where they belong, in the params that `load_adapter` returns. The
adapter remembers that they are needed, so that whatever saves it can write them too, and cannot
lose them in silence.
"""

from collections.abc import Sequence

from flax import struct

from lfl_jax.core.pytree import Node

KEY = "replaced"  # of an adapter tree, beside "layers" and "shared"


@struct.dataclass
class Replaced(Node):
    """paths: of the parameters, "head" or "layers/attn_norm". No leaves, so nothing here trains or
    is computed with.

    base: the fingerprint of the parameters before. rest: that of those which stayed; None where
    adapters with different parameters of their own were combined.
    """

    paths: tuple[str, ...] = struct.field(pytree_node=False)
    base: str = struct.field(pytree_node=False)
    rest: str | None = struct.field(pytree_node=False)


def combined(adapters: Sequence[dict | None]) -> dict:
    """{KEY: what a combination of these adapters needs}, or {} where none has parameters of its
    own."""
    found = list(dict.fromkeys(adapter[KEY] for adapter in adapters if adapter and KEY in adapter))
    if len(found) < 2:
        return {KEY: found[0]} if found else {}
    paths = dict.fromkeys(path for each in found for path in each.paths)
    return {KEY: Replaced(tuple(paths), found[0].base, None)}
