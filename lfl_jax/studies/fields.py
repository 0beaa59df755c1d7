"""The fields of a study that need no other module: its arms, and which values are legal."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lfl_jax.studies import points, sequences
from lfl_jax.studies.answers import MOST_CONTRASTS
from lfl_jax.studies.points import AS_TRAINED, Point
from lfl_jax.studies.running.keeping import RETENTIONS
from lfl_jax.studies.sequences import TaskConfig

# {"optim.lr": 1e-3}, as pairs: hashable, in the order of their names.
Overrides: TypeAlias = tuple[tuple[str, object], ...]

# Names are folders on every file system, and parts of a run's name, which "-" separates. Without
# ".", which ConfigDict takes in no field's name.
NAME = re.compile(r"[\w+]+")
NAMED = 'letters, digits, "_" and "+"'
# Of one index, so that no two random streams of a study share a number.
SEED_STREAMS = ("init", "data", "dropout", "sample")
# Fields that an axis of the study sets.
AXES = ("optim.lr", "train.steps", *(f"seed.{stream}" for stream in SEED_STREAMS))


@dataclass(frozen=True)
class ArmConfig:
    """A method: words added to the base config's, fields in place of its own, learning rates.

    of, points: of a method without training, which alters the change of another arm's runs in each
    of these ways; its rates are then that arm's. start: of a later task, of `sequences.STARTS`.
    """

    name: str
    words: str
    rates: tuple[float, ...]
    config: Overrides = ()
    of: str = ""
    points: tuple[Point, ...] = (AS_TRAINED,)
    start: str = "path"


def overrides(sections: Mapping[str, object]) -> Overrides:
    """{"optim.lr": 1e-3} of {"optim": {"lr": 1e-3}}; "trainable" is a field of no section."""
    flat: dict[str, object] = {}
    for name, value in sections.items():
        is_section = isinstance(value, Mapping)
        fields = {f"{name}.{field}": x for field, x in value.items()} if is_section else {}
        flat |= fields or {name: value}
    return tuple(sorted(flat.items(), key=lambda pair: pair[0]))


def wrong(
    given: Mapping[str, object], arms: Sequence[ArmConfig], tasks: Sequence[TaskConfig]
) -> Iterable[str]:
    """What is wrong with the values of a study, whose names are those of its fields."""
    names = [arm.name for arm in arms]
    if not given["base"]:
        yield "study field base: expected a config, such as math_ift:smoke"
    if len(arms) < 2:
        yield f"{len(arms)} arms; a study compares at least 2"
    trained = [arm.name for arm in arms if not arm.of]
    for arm in arms:
        yield from _wrong_derived(arm, trained) if arm.name not in trained else _wrong_arm(arm)
    for axis in ("steps", "seeds"):
        yield from _wrong_axis(axis, given[axis])
    if not given["margin"] > 0:
        yield f"margin {given['margin']}: expected a positive number, in the measure's unit"
    for name in ("weights", "unigrams"):
        if type(given[name]) is not bool:
            yield f"study field {name}={given[name]!r}: expected True or False"
    if type(given["curvature"]) is not int or given["curvature"] < 0:
        yield f"study field curvature={given['curvature']!r}: expected a whole number >= 0"
    yield from _wrong_contrasts(given["contrasts"], names)
    yield from _wrong_sequence(tasks, arms)
    yield from _wrong_checkpoints(given, arms)


def _wrong_arm(arm: ArmConfig) -> Iterable[str]:
    if not NAME.fullmatch(arm.name):
        yield f"arm {arm.name!r}: expected {NAMED}"
    if not arm.rates or not all(lr > 0 for lr in arm.rates):
        yield f"arm {arm.name}: lr {arm.rates}; expected learning rates above 0"
    for field, _ in arm.config:
        if field in AXES:
            yield f"arm {arm.name} sets {field}, which is an axis of the study"


def _wrong_derived(arm: ArmConfig, trained: Sequence[str]) -> Iterable[str]:
    if not NAME.fullmatch(arm.name):
        yield f"arm {arm.name!r}: expected {NAMED}"
    if arm.of not in trained:
        yield f"arm {arm.name} alters {arm.of!r}; expected one of the arms {', '.join(trained)}"
    for problem in points.wrong(arm.points):
        yield f"arm {arm.name}: {problem}"


def _wrong_axis(name: str, values: Sequence[int]) -> Iterable[str]:
    lowest = 1 if name == "steps" else 0
    if not values or not all(isinstance(x, int) and x >= lowest for x in values):
        yield f"study field {name}={values}: expected whole numbers >= {lowest}"


def _wrong_contrasts(contrasts: Sequence[Sequence[str]], names: Sequence[str]) -> Iterable[str]:
    # Without any declared, every pair is asked about.
    count = len(contrasts) or len(names) * (len(names) - 1) // 2
    if count > MOST_CONTRASTS:
        yield (
            f"{count} contrasts of {len(names)} arms; declare at most {MOST_CONTRASTS} in contrasts"
        )
    for contrast in contrasts:
        if len(contrast) != 2 or not set(contrast) <= set(names) or len(set(contrast)) < 2:
            yield f"contrast {tuple(contrast)}: expected two of the arms {', '.join(names)}"


def _wrong_sequence(tasks: Sequence[TaskConfig], arms: Sequence[ArmConfig]) -> Iterable[str]:
    starts = {arm.name: arm.start for arm in arms if not arm.of}
    yield from sequences.wrong(tasks, starts, [arm.name for arm in arms if arm.of])
    for task in tasks:
        fields = dict(overrides(task.config))
        if not NAME.fullmatch(task.name):
            yield f"task {task.name!r} of the sequence: expected {NAMED}"
        for field in AXES:
            if field in fields:
                yield f"task {task.name} sets {field}, which is an axis of the study"
        for arm in arms:
            if both := fields.keys() & dict(arm.config):
                yield f"arm {arm.name} and task {task.name} both set {min(both)}"


def _wrong_checkpoints(given: Mapping[str, object], arms: Sequence[ArmConfig]) -> Iterable[str]:
    retention = given["checkpoints"]
    if retention not in RETENTIONS:
        yield f"study field checkpoints={retention!r}: expected one of {', '.join(RETENTIONS)}"
    for arm in arms:
        if arm.of and retention == "none":
            yield (
                f'study field checkpoints="none": arm {arm.name} alters the weights of'
                f' {arm.of}; keep "weights"'
            )
    if given["sequence"] and retention == "none":
        yield 'study field checkpoints="none": later tasks start from the weights; keep "weights"'
    if given["weights"] and retention == "none":
        yield 'study field checkpoints="none": weights=True measures them; keep "weights"'
