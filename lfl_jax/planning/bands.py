"""A fast and a slow estimate of one thing, and what programs reach of a chip's peaks."""

import dataclasses
from typing import TypeAlias

Number: TypeAlias = int | float


@dataclasses.dataclass(frozen=True)
class Band:
    """A fast and a slow estimate, in one unit; of a share of a peak, the best and the worst."""

    fast: Number
    slow: Number

    def __mul__(self, factor: Number) -> "Band":
        return Band(self.fast * factor, self.slow * factor)

    def __add__(self, other: "Band") -> "Band":
        return Band(self.fast + other.fast, self.slow + other.slow)


@dataclasses.dataclass(frozen=True)
class Reached:
    """The share of a peak that a program reaches, at best and at worst."""

    products: Band
    memory: Band
    links: Band


# Published training runs reach 0.3 to 0.65 of the chips' peaks (PaLM, arXiv 2204.02311: 0.46).
ACCELERATOR = Reached(Band(0.75, 0.3), Band(0.95, 0.5), Band(0.9, 0.3))
# A CPU's peaks are measured, at the sizes in question.
MEASURED = Reached(Band(1.1, 0.6), Band(1.1, 0.4), Band(1.0, 1.0))
