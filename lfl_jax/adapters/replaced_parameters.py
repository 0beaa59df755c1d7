"""Parameters that belong to an adapter: PEFT's modules_to_save, or those that a run trained.

The parameters themselves are in the params that `load_adapter` returns. The adapter's tree records
which ones they are, so that whatever saves the adapter writes them too.
"""

from collections.abc import Sequence

from flax import struct

from lfl_jax.core.pytree import Node
from lfl_jax.core.types import AdapterTree

KEY = "replaced"  # of an adapter tree, beside "layers" and "shared"


@struct.dataclass
class Replaced(Node):
    """Which parameters replace the base's. It has no leaves: nothing here trains or is computed.

    paths: such as "head" or "layers/attn_norm". base: the fingerprint of the parameters before.
    others: the fingerprint of the parameters that stayed; None where adapters that replace
    different parameters were combined.
    """

    paths: tuple[str, ...] = struct.field(pytree_node=False)
    base: str = struct.field(pytree_node=False)
    others: str | None = struct.field(pytree_node=False)


def combined(adapters: Sequence[AdapterTree | None]) -> dict[str, Replaced]:
    """{KEY: what a combination of these adapters replaces}, or {} where none replaces any."""
    records = (adapter[KEY] for adapter in adapters if adapter and KEY in adapter)
    distinct = list(dict.fromkeys(records))
    if len(distinct) < 2:
        return {KEY: distinct[0]} if distinct else {}
    paths = dict.fromkeys(path for record in distinct for path in record.paths)
    return {KEY: Replaced(tuple(paths), distinct[0].base, None)}
