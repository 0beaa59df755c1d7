"""The base of every dataclass that is a node of a tree, so that no two classes are confused.

`flax.struct.dataclass` registers a class through `jax.tree_util.register_dataclass`. To jaxlib
0.10.2, 0.11.2 and 0.12.0, the tree structures of two such classes are equal when they have as many
leaves and equal static fields. `jax.jit` finds a compiled program by a few bits of the structure's
hash and then by equality. So about one pair of classes in 128 shared a program at the same shapes:
an adapter was silently computed as one of another kind.
"""

import inspect
from typing import Any, TypeAlias

from flax import struct

# Any tree that JAX flattens. (It is defined below `core.types`, which imports quant and so spec.)
PyTree: TypeAlias = Any

NODE_TYPE = "node_type"


class Node:
    """Gives each subclass a static field with the class itself: tree structures differ with it.

    A subclass needs `@flax.struct.dataclass` and nothing else. The field is no leaf and no
    positional argument, and two classes of one name (a cell of a notebook, run again) are two
    classes.
    """

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        # A dataclass takes its fields from the annotations of its own class: a field of Node would
        # hold Node.
        cls.__annotations__ = {**inspect.get_annotations(cls), NODE_TYPE: type}
        field = struct.field(pytree_node=False, default=cls, kw_only=True, repr=False)
        setattr(cls, NODE_TYPE, field)
