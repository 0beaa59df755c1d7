"""Many questions at once: p-values that hold for all of them together."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Adjusted p-values: the chance of any false rejection is at most each (Holm, 1979)."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    # Each is compared with those that are still open; none may fall below an earlier one.
    adjusted, highest = {}, 0.0
    for index, name in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - index) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}
