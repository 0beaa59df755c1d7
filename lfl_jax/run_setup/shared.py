"""What the runs of one process have in common, made by the first run that needs it.

    shared = Shared()
    for config, folder in runs:
        train.run(Run(config, folder, shared=shared))

It is an argument: runs that are given no `Shared` share nothing. A part is named by everything that
it depends on, and nobody changes it.
"""

from collections.abc import Callable, Hashable
from typing import TypeVar

from lfl_jax import notices

Part = TypeVar("Part")

# Of one kind, so that a study of many seeds does not fill the memory with their data.
MOST_PARTS = 4


class Shared:
    """Parts by their kind ("base", "source") and their key; those used last stay."""

    def __init__(self) -> None:
        # Each with the warnings that were given while it was made.
        self._parts: dict[str, dict[Hashable, tuple[object, list[str]]]] = {}

    def part(
        self, kind: str, key: Hashable, make: Callable[[], Part], most: int = MOST_PARTS
    ) -> Part:
        """The part, made where no earlier run made it; `most` of its kind stay."""
        parts = self._parts.setdefault(kind, {})
        if key in parts:
            # The order of a dict is that of use, the last used last.
            part, warnings = parts[key] = parts.pop(key)
            # They are of every run that uses it, and stand in the results of each.
            for text in warnings:
                notices.warn(text)
            return part
        # Before making another: two bases need not fit into memory.
        while len(parts) >= most:
            del parts[next(iter(parts))]
        with notices.collected() as warnings:
            part = make()
        parts[key] = part, warnings
        return part

    def give_away(self, kind: str, key: Hashable) -> None:
        """Forget a part, for a run that changes it: the next one makes its own."""
        self._parts.get(kind, {}).pop(key, None)

    def __reduce__(self) -> tuple[type["Shared"], tuple]:
        """Pickled it is empty: another process shares what it makes itself."""
        return Shared, ()
