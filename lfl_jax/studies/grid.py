"""A study as data: arms, learning rates, lengths and seeds, expanded to the configs of its runs.

    study = grid.load("configs/studies/smoke.py")
    for run in grid.expand(study):
        run.name, run.config          # "lora-0.001-6-s0", a Config

A run is a function of its config: whatever differs between two runs is a field of it.
"""

import dataclasses
import difflib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lfl_jax.config import Config, command_line
from lfl_jax.config.sections import name_and_items
from lfl_jax.errors import UserError, mistakes
from lfl_jax.studies import points
from lfl_jax.studies.answers import MOST_CONTRASTS, Question
from lfl_jax.studies.arms import Measures
from lfl_jax.studies.points import AS_TRAINED, Point
from lfl_jax.studies.running.keeping import RETENTIONS
from lfl_jax.studies.runs import run_name

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
    of these ways; its rates are then that arm's.
    """

    name: str
    words: str
    rates: tuple[float, ...]
    config: Overrides = ()
    of: str = ""
    points: tuple[Point, ...] = (AS_TRAINED,)


@dataclass(frozen=True)
class StudyConfig:
    """A whole study. configs/studies/base.py has the fields, with units and legal values."""

    name: str
    base: str
    arms: tuple[ArmConfig, ...]
    steps: tuple[int, ...]
    seeds: tuple[int, ...]
    question: Question
    config: Overrides = ()
    weights: bool = False
    curvature: int = 0
    unigrams: bool = False
    checkpoints: str = "weights"


@dataclass(frozen=True)
class PlannedRun:
    """A run of the grid. name: of its directory, the same whenever the study is expanded.

    source, point: of a run without training, the name of the run whose change is altered, and how;
    config is that run's.
    """

    name: str
    arm: str
    lr: float
    steps: int
    seed: int
    config: Config
    source: str = ""
    point: Point = AS_TRAINED


def load(place: str) -> StudyConfig:
    """The study of FILE.py or FILE.py:ARGUMENT, or of a name in configs/; UserError as `read`."""
    return read(load_values(place))


def load_values(place: str) -> dict[str, object]:
    """The fields of a study or of another kind of config, as they stand in its file."""
    return command_line.load(command_line.resolve(place)).to_dict()


def read(values: Mapping[str, object]) -> StudyConfig:
    """A study from a nested dict. One UserError for all fields that are unknown or wrong."""
    from lfl_jax.configs.studies import base

    problems = unknown(values, base.study().to_dict(), "study field ")
    # What is missing takes base.py's value, so that a plain dict need not have every field.
    given = base.study().to_dict() | dict(values)
    for name, arm in given["arms"].items():
        form = base.derived() if "of" in arm else base.arm()
        problems += unknown(arm, form.to_dict(), f"study field arms.{name}.")
    if problems:
        raise mistakes(problems)

    arms = _arms(given["arms"])
    problems = [*_wrong(given, arms)]
    if problems:
        raise mistakes(problems)
    measures = Measures.parse(given["learning"], given["forgetting"], given["divergence"])
    question = Question(measures, float(given["margin"]), _pairs(given["contrasts"]))
    axes = {"steps": tuple(given["steps"]), "seeds": tuple(given["seeds"])}
    rest = {"config": overrides(given["config"]), "checkpoints": given["checkpoints"]}
    rest |= {name: given[name] for name in ("weights", "curvature", "unigrams")}
    return StudyConfig(given["name"], given["base"], arms, question=question, **axes, **rest)


def expand(study: StudyConfig) -> list[PlannedRun]:
    """Every run, those of a seed together, so that an interrupted study has whole seeds.

    Raises UserError for fields that no config has, arms that do not differ, and runs that collide.
    """
    base = command_line.configured(study.base, {})
    # What needs no training comes after the runs that it needs.
    arms = sorted(study.arms, key=lambda arm: bool(arm.of))
    cells = itertools.product(study.seeds, arms, study.steps)
    runs = [
        _run(study, base, arm, lr, steps, seed, point)
        for seed, arm, steps in cells
        for lr, point in itertools.product(arm.rates, arm.points)
    ]
    _require_different_arms(study, base)
    _require_distinct(runs)
    _require_measured(study, runs[0].config)
    return runs


def unknown(given: Mapping[str, object], known: Mapping[str, object], where: str) -> list[str]:
    """What is wrong with the names of a section's fields; where: before a name, in what is said."""
    problems = []
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            problems.append(f"unknown {where}{name}; {hint}")
    return problems


def _arms(given: Mapping[str, Mapping[str, object]]) -> tuple[ArmConfig, ...]:
    """The arms in their order, those without training with the rates of the arms they alter."""
    from lfl_jax.configs.studies import base

    trained, arms = {}, []
    for name, values in given.items():
        if "of" not in values:
            arm = base.arm().to_dict() | values
            rates = _numbers(arm["lr"])
            trained[name] = ArmConfig(name, arm["words"], rates, overrides(arm["config"]))
    for name, values in given.items():
        if name in trained:
            arms.append(trained[name])
            continue
        of, rates = values["of"], ()
        if of in trained:
            rates = trained[of].rates
        arms.append(ArmConfig(name, "", rates, of=of, points=points.listed(values)))
    return tuple(arms)


def _numbers(values: Sequence[object]) -> tuple[float, ...]:
    """NaN stands for what is no number, which no check lets pass."""
    return tuple(float(x) if isinstance(x, int | float) else math.nan for x in values)


def overrides(sections: Mapping[str, object]) -> Overrides:
    """{"optim.lr": 1e-3} of {"optim": {"lr": 1e-3}}; "trainable" is a field of no section."""
    flat: dict[str, object] = {}
    for name, value in sections.items():
        is_section = isinstance(value, Mapping)
        fields = {f"{name}.{field}": x for field, x in value.items()} if is_section else {}
        flat |= fields or {name: value}
    return tuple(sorted(flat.items(), key=lambda pair: pair[0]))


def _pairs(contrasts: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in contrasts)


def _wrong(given: Mapping[str, object], arms: Sequence[ArmConfig]) -> Iterable[str]:
    """What is wrong with the values of a study."""
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
    if given["weights"] and retention == "none":
        yield 'study field checkpoints="none": weights=True measures them; keep "weights"'


def _run(
    study: StudyConfig,
    base: Config,
    arm: ArmConfig,
    lr: float,
    steps: int,
    seed: int,
    point: Point = AS_TRAINED,
) -> PlannedRun:
    axes = {"optim.lr": lr, "train.steps": steps} | seeds_of(base, seed)
    name = run_name(arm.name, lr, steps, seed)
    if not arm.of:
        return PlannedRun(name, arm.name, lr, steps, seed, _config(study, arm, axes))
    trained = next(other for other in study.arms if other.name == arm.of)
    config, source = _config(study, trained, axes), run_name(arm.of, lr, steps, seed)
    name = f"{name}-{point.suffix}"
    return PlannedRun(name, arm.name, lr, steps, seed, config, source, point)


def seeds_of(base: Config, index: int) -> dict[str, int]:
    """The seed fields of a seed's index.

    A base with random weights is drawn by seed.init, and what generated sources generate by
    seed.data. Runs are compared with one base on the same items, so that these two stay.
    """
    seeds = {
        f"seed.{stream}": len(SEED_STREAMS) * index + offset
        for offset, stream in enumerate(SEED_STREAMS)
    }
    if base.model.init == "random":
        seeds["seed.init"] = base.seed.init
    if base.data.seed is None:
        seeds["data.seed"] = base.seed.data
    return seeds


def _config(study: StudyConfig, arm: ArmConfig, axes: Mapping[str, object]) -> Config:
    """The base with the arm's words; then the study's fields, the arm's and those of the axes."""
    # What a config is named by: its file or name, then words.
    file, colon, words = study.base.partition(":")
    joined = ",".join(filter(None, (words, arm.words)))
    fields = dict(study.config) | dict(arm.config) | dict(axes)
    # Text is parsed as on a command line; a value keeps its type.
    return command_line.configured(f"{file}:{joined}" if joined or colon else file, fields)


def _require_different_arms(study: StudyConfig, base: Config) -> None:
    by_hash: dict[str, str] = {}
    for arm in study.arms:
        # All else equal, arms differ in what remains.
        run = _run(study, base, arm, 1e-3, study.steps[0], study.seeds[0])
        curve = sorted(arm.points) if arm.of else ""
        other = by_hash.setdefault(f"{run.config.hash()} {curve}", arm.name)
        if other != arm.name:
            raise UserError(
                f"arms {other} and {arm.name} do not differ in anything that is trained"
            )


def _require_distinct(runs: Sequence[PlannedRun]) -> None:
    names = Counter(run.name for run in runs)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(
            f"{len(twice)} runs would be the same, {twice[0]} first: give every learning rate,"
            " length and seed once"
        )


def _require_measured(study: StudyConfig, config: Config) -> None:
    """UserError for a measure whose task the runs do not evaluate."""
    evaluated = [name_and_items(task)[0] for task in config.eval.tasks]
    for field in dataclasses.fields(Measures):
        measure = getattr(study.question.measures, field.name)
        missing = [task for task in measure.tasks if task not in evaluated] if measure else []
        if missing:
            raise UserError(
                f"{field.name} is {measure}, but the runs evaluate {', '.join(evaluated)}: add"
                f" {' and '.join(missing)} to eval.tasks"
            )
