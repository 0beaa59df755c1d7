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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lfl_jax.config import Config, command_line
from lfl_jax.config.sections import name_and_items
from lfl_jax.errors import UserError, mistakes
from lfl_jax.studies import points, sequences
from lfl_jax.studies.answers import Question
from lfl_jax.studies.arms import Measure, Measures
from lfl_jax.studies.fields import (
    SEED_STREAMS,
    ArmConfig,
    Overrides,
    overrides,
    wrong,
)
from lfl_jax.studies.points import AS_TRAINED, Point
from lfl_jax.studies.runs import run_name
from lfl_jax.studies.sequences import TaskConfig


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
    sequence: tuple[TaskConfig, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """A run of the grid. name: of its directory, the same whenever the study is expanded.

    source, point: of a run without training, the name of the run whose change is altered, and how;
    config is that run's. task: of a sequence. start: the name of the run that it starts from.
    same_as: of an earlier run with the same config, of which this one is a copy.
    """

    name: str
    arm: str
    lr: float
    steps: int
    seed: int
    config: Config
    source: str = ""
    point: Point = AS_TRAINED
    task: str = ""
    start: str = ""
    same_as: str = ""

    @property
    def needs(self) -> set[str]:
        """The names of the runs that have to have ended before."""
        return {self.source, self.start, self.same_as} - {""}


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
    for task in given["sequence"]:
        problems += unknown(task, base.task(), "study field sequence.")
    if problems:
        raise mistakes(problems)

    arms, tasks = _arms(given["arms"]), _sequence(given["sequence"])
    if problems := [*wrong(given, arms, tasks)]:
        raise mistakes(problems)
    measures = Measures.parse(given["learning"], given["forgetting"], given["divergence"])
    question = Question(measures, float(given["margin"]), _pairs(given["contrasts"]))
    axes = {"steps": tuple(given["steps"]), "seeds": tuple(given["seeds"])}
    rest = {"config": overrides(given["config"]), "checkpoints": given["checkpoints"]}
    rest |= {name: given[name] for name in ("weights", "curvature", "unigrams")}
    rest["sequence"] = tasks
    return StudyConfig(given["name"], given["base"], arms, question=question, **axes, **rest)


def expand(study: StudyConfig, folder: Path = Path()) -> list[PlannedRun]:
    """Every run, those of a seed together, so that an interrupted study has whole seeds.

    A run comes after the one that it needs. folder: the study's, where those of later tasks start.
    Raises UserError for fields that no config has, arms that do not differ, and runs that collide.
    """
    base = command_line.configured(study.base, {})
    # What needs no training comes after the runs that it needs.
    arms = sorted(study.arms, key=lambda arm: bool(arm.of))
    cells = itertools.product(study.seeds, arms, study.steps)
    runs = []
    for seed, arm, steps in cells:
        for lr, point in itertools.product(arm.rates, arm.points):
            run = _run(study, base, arm, lr, steps, seed, point)
            runs += _in_sequence(study, base, arm, run, folder) if study.sequence else [run]
    _require_different_arms(study, base)
    _require_distinct(runs)
    _require_measured(study, runs[0].config)
    return _with_copies(runs) if study.sequence else runs


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
            fields = overrides(arm["config"])
            trained[name] = ArmConfig(name, arm["words"], rates, fields, start=arm["start"])
    for name, values in given.items():
        if name in trained:
            arms.append(trained[name])
            continue
        of, rates = values["of"], ()
        curve = points.listed(values)
        if of in trained:
            # The base has no rate: one run of each seed is enough to know which base it is.
            is_prompt = any(point.is_prompt for point in curve)
            rates = trained[of].rates[:1] if is_prompt else trained[of].rates
        arms.append(ArmConfig(name, "", rates, of=of, points=curve))
    return tuple(arms)


def _sequence(given: Sequence[Mapping[str, object]]) -> tuple[TaskConfig, ...]:
    """The tasks; what is missing of one takes base.py's value, as elsewhere."""
    from lfl_jax.configs.studies import base

    return sequences.read([base.task() | dict(task) for task in given])


def _numbers(values: Sequence[object]) -> tuple[float, ...]:
    """NaN stands for what is no number, which no check lets pass."""
    return tuple(float(x) if isinstance(x, int | float) else math.nan for x in values)


def _pairs(contrasts: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in contrasts)


def _in_sequence(
    study: StudyConfig, base: Config, arm: ArmConfig, run: PlannedRun, folder: Path
) -> list[PlannedRun]:
    """A run for each task, from the one before it, in place of one that is of no task."""
    axes, chain = _axes(base, run.lr, run.steps, run.seed), []
    for task in study.sequence:
        # The first task starts from the base, as every run of a study without a sequence.
        fields, start = dict(overrides(task.config)), ""
        if chain:
            start = chain[-1].name
            fields |= sequences.start_fields(arm.start, folder, start, chain[-1].config)
        config = _config(study, arm, axes | fields)
        named = {"name": f"{run.name}-{task.name}", "task": task.name, "start": start}
        chain.append(dataclasses.replace(run, config=config, **named))
    return chain


def _with_copies(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs; of those with one config, all but the first say which one they are copies of.

    Arms that differ in what later tasks do have the same first task.
    """
    first: dict[str, str] = {}
    for run in runs:
        first.setdefault(run.config.hash(), run.name)
    same = [first[run.config.hash()] for run in runs]
    return [
        run if name == run.name else dataclasses.replace(run, same_as=name)
        for run, name in zip(runs, same, strict=True)
    ]


def _axes(base: Config, lr: float, steps: int, seed: int) -> dict[str, float | int]:
    return {"optim.lr": lr, "train.steps": steps} | seeds_of(base, seed)


def _run(
    study: StudyConfig,
    base: Config,
    arm: ArmConfig,
    lr: float,
    steps: int,
    seed: int,
    point: Point = AS_TRAINED,
) -> PlannedRun:
    axes = _axes(base, lr, steps, seed)
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
    config = command_line.configured(f"{file}:{joined}" if joined or colon else file, fields)
    if not config.log.wandb or config.log.wandb_group:
        return config
    return dataclasses.replace(config, log=dataclasses.replace(config.log, wandb_group=study.name))


def _require_different_arms(study: StudyConfig, base: Config) -> None:
    by_hash: dict[str, str] = {}
    for arm in study.arms:
        # All else equal, arms differ in what remains.
        run = _run(study, base, arm, 1e-3, study.steps[0], study.seeds[0])
        curve = sorted(arm.points) if arm.of else ""
        other = by_hash.setdefault(f"{run.config.hash()} {curve} {arm.start}", arm.name)
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
    """UserError for a measure whose task the runs do not evaluate, or not on the same items."""
    from lfl_jax.evals.tasks import TASKS

    evaluated = [name_and_items(task)[0] for task in config.eval.tasks]
    for field in dataclasses.fields(Measures):
        measure = getattr(study.question.measures, field.name)
        if measure is not None:
            _require_evaluated(field.name, measure, evaluated)
    for task in study.sequence:
        _require_evaluated(f"the score of task {task.name}", task.score, evaluated)
        if task.score.task in TASKS and TASKS[task.score.task].reads_source:
            raise UserError(
                f"task {task.name}: {task.score} is of whatever a run trains on; give a measure"
                " that is of this task in the runs of all tasks"
            )


def _require_evaluated(what: str, measure: Measure, evaluated: Sequence[str]) -> None:
    missing = [task for task in measure.tasks if task not in evaluated]
    if missing:
        raise UserError(
            f"{what} is {measure}, but the runs evaluate {', '.join(evaluated)}: add"
            f" {' and '.join(missing)} to eval.tasks"
        )
