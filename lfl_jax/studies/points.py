"""A point of a curve that needs no training: what is done to a finished change, and how much."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

# A factor, a rank, or the name of a part.
Value: TypeAlias = float | int | str


@dataclass(frozen=True)
class Values:
    """The values that an intervention takes.

    expected: in words. is_legal: whether something is one. mark: of a value, short, at a point of a
    figure; text: in a sentence.
    """

    expected: str
    is_legal: Callable[[object], bool]
    mark: str
    text: str


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_part(value: object) -> bool:
    return isinstance(value, str) and value.strip("/") == value != ""


PARTS = 'names of parts, such as "mlp" or "layers/0"'
# Of every entry of analysis.interventions.INTERVENTIONS, which needs jax and this does not.
VALUES: dict[str, Values] = {
    "scales": Values("numbers", _is_number, "x{}", "scale {}"),
    "truncate": Values("ranks >= 1", _is_rank, "rank {}", "rank {}"),
    "intruders": Values("numbers", _is_number, "intruders x{}", "intruders times {}"),
    "random_directions": Values("numbers", _is_number, "random x{}", "random directions times {}"),
    "without": Values(PARTS, _is_part, "without {}", "without {}"),
    "shots": Values("numbers of examples >= 0", _is_count, "{} shots", "{} examples in the prompt"),
}


class Point(NamedTuple):
    """An intervention, an entry of VALUES, and one of its values."""

    intervention: str
    value: Value

    @property
    def is_trained(self) -> bool:
        """Whether nothing is done to the change."""
        return self == AS_TRAINED

    @property
    def is_prompt(self) -> bool:
        """Whether it is the base after worked examples, which has no learning rate."""
        return self.intervention == PROMPTING

    @property
    def scale(self) -> float | None:
        """The factor on the change; None where something else is done to it."""
        return float(self.value) if self.intervention == AS_TRAINED.intervention else None

    @property
    def mark(self) -> str:
        """As short as there is room for in a figure: "x0.5", "rank 4"."""
        return VALUES[self.intervention].mark.format(_text(self.value))

    @property
    def suffix(self) -> str:
        """Of the names of runs and their directories: "x0.5", "rank_4", "without_layers.0"."""
        return self.mark.replace(" ", "_").replace("/", ".")

    @property
    def column(self) -> float | str:
        """In a table: the factor on the change, 1 as trained, or what else is done to it."""
        return self.mark if self.scale is None else self.scale

    def __str__(self) -> str:
        return VALUES[self.intervention].text.format(_text(self.value))


# Of what is asked of the base, and not of a change.
PROMPTING = "shots"
# A change times 1 is what was trained.
AS_TRAINED = Point("scales", 1.0)


def scale(factor: float) -> Point:
    """The change times this."""
    return Point(AS_TRAINED.intervention, factor)


def listed(fields: Mapping[str, object]) -> tuple[Point, ...]:
    """Those of a study's arm without training, in the order of its fields, legal or not."""
    pairs = [(name, fields.get(name, ())) for name in VALUES]
    # A single value stands for a list of one.
    as_lists = [(name, x if isinstance(x, list | tuple) else (x,)) for name, x in pairs]
    return tuple(Point(name, value) for name, values in as_lists for value in values)


def wrong(points: Sequence[Point]) -> Iterable[str]:
    """What is wrong with the points of an arm, which is one curve."""
    names = list(dict.fromkeys(point.intervention for point in points))
    if len(names) != 1:
        given = " and ".join(names) or "nothing is done to the change"
        yield f"{given}; expected one of {', '.join(VALUES)}, as an arm is one curve"
        return
    form, values = VALUES[names[0]], tuple(point.value for point in points)
    # What is no legal value need not be hashable.
    if not all(map(form.is_legal, values)) or len({*values}) < len(values):
        yield f"{names[0]} {values}; expected {form.expected}, each once"


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"
