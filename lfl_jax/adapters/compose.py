"""The algebra of adapters: functions from adapter trees to adapter trees, in the space of weight changes."""

from typing import Any

import jax

from lfl_jax.adapters.build import is_layer
from lfl_jax.adapters.mix import Mix, members


def add(*adapters: dict) -> dict:
    """The adapter whose dW is the sum: a Mix wherever more than one is present, with the summands as gate columns.

    Columns follow the order of the summands only at weights that all of them adapt.
    """

    def join(*layers: Any) -> Any:
        found = tuple(m for layer in layers for m in members(layer))
        if not found:
            return None
        return found[0] if len(found) == 1 else Mix(found)

    return jax.tree.map(join, *adapters, is_leaf=is_layer)


def scale(adapter: dict, factor: Any) -> dict:
    """The adapter whose dW is factor · dW."""
    return jax.tree.map(lambda x: None if x is None else x.scaled(factor), adapter, is_leaf=is_layer)


def negate(adapter: dict) -> dict:
    """The adapter whose dW is -dW."""
    return scale(adapter, -1.0)
