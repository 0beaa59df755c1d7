"""The unit every data source yields: one prompt with the response to learn."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex


@dataclass(frozen=True)
class Example:
    """One item; `id` is unique in its source, items that share a `cluster` are not independent.

    group: the kind of item that scores are also given for, such as a level of difficulty; "" = none.
    """

    prompt: str
    response: str
    id: str
    cluster: str
    group: str = ""


@dataclass(frozen=True)
class Drawn(Sequence[Example]):
    """The first `size` examples of a split; nothing is stored, one is drawn when it is asked for."""

    seed: int
    split: str
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: SupportsIndex) -> Example:
        return self.draw(range(self.size)[operator.index(index)])

    def draw(self, i: int) -> Example:
        """Example i >= 0, a pure function of the fields."""
        raise NotImplementedError
