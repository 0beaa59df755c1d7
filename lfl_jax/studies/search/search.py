"""A search as data: candidates (learning rate x target modules x rank) and the rungs they climb.

    config = search.read(grid.load_values("configs/studies/search.py"))
    search.planned(config, search.candidates(config), steps=20, seeds=(0,))
                                                            # {candidate: its runs, as of a study}

Successive halving (Jamieson and Talwalkar, arXiv 1502.07943): all candidates are trained briefly,
the better ones longer. A rung's resource is the length of the run, whose schedule is whole at every
rung: a long run's first steps are at a rate that has not decayed, and rank candidates otherwise.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lfl_jax.config import Config, command_line
from lfl_jax.config.sections import name_and_items
from lfl_jax.errors import mistakes
from lfl_jax.studies import grid
from lfl_jax.studies.arms import Measure
from lfl_jax.studies.fields import AXES, NAME, NAMED, Overrides, overrides
from lfl_jax.studies.grid import PlannedRun
from lfl_jax.studies.runs import run_name

# Fields that the search sets itself.
SEARCHED = (*AXES, "adapter.targets", "adapter.rank")


@dataclass(frozen=True)
class Candidate:
    """A choice of everything that is searched; targets: the name of a set of modules."""

    targets: str
    rank: int
    lr: float

    @property
    def arm(self) -> str:
        """All but the learning rate, as part of its runs' names."""
        return f"{self.targets}_r{self.rank}"

    def __str__(self) -> str:
        return f"lr {self.lr:g}, {self.targets}, rank {self.rank}"


@dataclass(frozen=True)
class SearchConfig:
    """A whole search. configs/studies/base.py has the fields, with units and legal values."""

    name: str
    base: str
    rates: tuple[float, ...]
    targets: Mapping[str, tuple[str, ...]]
    ranks: tuple[int, ...]
    steps: tuple[int, ...]
    keep: int
    seeds: tuple[int, ...]
    measure: Measure
    config: Overrides = ()


def read(values: Mapping[str, object]) -> SearchConfig:
    """A search from a nested dict. One UserError for all fields that are unknown or wrong."""
    from lfl_jax.configs.studies import base

    known = base.search().to_dict()
    if problems := grid.unknown(values, known, "search field "):
        raise mistakes(problems)
    # What is missing takes base.py's value, so that a plain dict need not have every field.
    given = known | dict(values)
    search = SearchConfig(
        name=given["name"],
        base=given["base"],
        rates=tuple(map(float, given["lr"])),
        targets={name: tuple(modules) for name, modules in given["targets"].items()},
        ranks=tuple(given["rank"]),
        steps=tuple(given["steps"]),
        keep=given["keep"],
        seeds=tuple(given["seeds"]),
        measure=Measure.parse(given["measure"]),
        config=overrides(given["config"]),
    )
    if problems := [*_wrong(search)]:
        raise mistakes(problems)
    if problems := [*_unusable(search)]:
        raise mistakes(problems)
    return search


def candidates(search: SearchConfig) -> list[Candidate]:
    """Every combination, in a fixed order."""
    cells = itertools.product(search.targets, search.ranks, search.rates)
    return [Candidate(*cell) for cell in cells]


def neighbours(search: SearchConfig, of: Candidate) -> list[Candidate]:
    """The next lower and higher learning rate and rank, as far as they are searched."""
    by_rate = [dataclasses.replace(of, lr=lr) for lr in _beside(search.rates, of.lr)]
    by_rank = [dataclasses.replace(of, rank=rank) for rank in _beside(search.ranks, of.rank)]
    return [*by_rate, *by_rank]


def planned(
    search: SearchConfig, candidates: Sequence[Candidate], steps: int, seeds: Sequence[int]
) -> dict[Candidate, list[PlannedRun]]:
    """Each candidate's runs. They are evaluated on dev items alone: no choice is of test items."""
    runs = tested(search, candidates, steps, seeds)
    return {candidate: list(map(_without_tests, members)) for candidate, members in runs.items()}


def tested(
    search: SearchConfig, candidates: Sequence[Candidate], steps: int, seeds: Sequence[int]
) -> dict[Candidate, list[PlannedRun]]:
    """The same runs, evaluated on the test items, too."""
    base = command_line.configured(search.base, {})
    by_seed = {seed: grid.seeds_of(base, seed) for seed in seeds}
    runs = {}
    for candidate in candidates:
        fields = dict(search.config) | _fields(search, candidate) | {"train.steps": steps}
        runs[candidate] = []
        for seed in seeds:
            config = command_line.configured(search.base, fields | by_seed[seed])
            runs[candidate].append(_run(candidate, steps, seed, config))
    return runs


def _run(candidate: Candidate, steps: int, seed: int, config: Config) -> PlannedRun:
    name = run_name(candidate.arm, candidate.lr, steps, seed)
    return PlannedRun(name, candidate.arm, candidate.lr, steps, seed, config)


def _fields(search: SearchConfig, candidate: Candidate) -> dict[str, object]:
    """The config fields that a candidate is."""
    return {
        "optim.lr": candidate.lr,
        "adapter.targets": search.targets[candidate.targets],
        "adapter.rank": candidate.rank,
    }


def _without_tests(run: PlannedRun) -> PlannedRun:
    untested = dataclasses.replace(run.config.eval, tasks=(), base_tasks=())
    return dataclasses.replace(run, config=dataclasses.replace(run.config, eval=untested))


def first_config(search: SearchConfig) -> Config:
    """Of any run: all have one base."""
    [[run]] = tested(search, candidates(search)[:1], search.steps[0], search.seeds[:1]).values()
    return run.config


def _beside(values: Sequence[float | int], value: float | int) -> tuple[float | int, ...]:
    index = values.index(value)
    return (*values[max(index - 1, 0) : index], *values[index + 1 : index + 2])


def _wrong(search: SearchConfig) -> Iterable[str]:
    """What is wrong with the values of a search."""
    if not search.base:
        yield "search field base: expected a config with an adapter, such as math_ift:lora"
    if len(search.rates) < 3:
        yield f"search field lr={search.rates}: expected at least 3 learning rates"
    if len(search.ranks) not in (1, *range(3, 100)):
        yield f"search field rank={search.ranks}: expected one rank or at least 3"
    for name in ("rates", "ranks", "steps"):
        values = getattr(search, name)
        if not values or min(values) <= 0 or list(values) != sorted(set(values)):
            yield f"{name} {values}: expected numbers above 0, ascending"
    if not search.targets:
        yield 'search field targets: expected sets of modules, such as {"attention": ("q", "v")}'
    for name in search.targets:
        if not NAME.fullmatch(name):
            yield f"targets {name!r}: expected {NAMED}"
    if search.keep < 2:
        yield f"search field keep={search.keep}: expected at least 2: one of so many goes on"
    if not search.seeds or min(search.seeds) < 0 or len(set(search.seeds)) < len(search.seeds):
        yield f"search field seeds={search.seeds}: expected different whole numbers >= 0"
    for field, _ in search.config:
        if field in SEARCHED:
            yield f"search field config sets {field}, which the search sets"


def _unusable(search: SearchConfig) -> Iterable[str]:
    """Why the base has nothing to search, or the measure no value, on dev or on test items."""
    # Ranks of a run without adapters would be fields that nothing reads.
    if command_line.configured(search.base, {}).adapter.rank is None:
        yield f"base {search.base} has no adapter with a rank; a search is over ranks"
    # What is wrong with the base or with any candidate is raised here, before the first run.
    runs = tested(search, candidates(search), search.steps[0], search.seeds[:1])
    config = next(iter(runs.values()))[0].config
    for field in ("every_tasks", "tasks"):
        evaluated = [name_and_items(task)[0] for task in getattr(config.eval, field)]
        if search.measure.task not in evaluated:
            yield f"measure {search.measure}: add {search.measure.task} to eval.{field}"
