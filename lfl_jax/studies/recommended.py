"""The config to use, after what several studies say of the paper's advice (`claims.advice`).

The advice where it holds or is undecided, else what learned most; and the best learning rate of the
arm that is nearest to that.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lfl_jax.studies.claims import advice
from lfl_jax.studies.claims.advice import Answered, Trained
from lfl_jax.studies.claims.claim import Status
from lfl_jax.studies.traits import LORA

# What the data say of a piece of advice.
WORDS = {
    Status.REPRODUCED: "holds",
    Status.CONTRADICTED: "does not hold",
    Status.UNDECIDED: "undecided",
    Status.UNTESTED: "not tested",
}


@dataclass(frozen=True)
class Setting:
    """What an arm of LoRA trains, and how long."""

    targets: tuple[str, ...]
    rank: int
    steps: int


@dataclass(frozen=True)
class Rate:
    """A learning rate, the arm that it was best for, and the base of that arm's study."""

    value: float
    why: str
    base: str


def config(studies: Sequence[Answered], statuses: Mapping[str, Status]) -> list[str]:
    """A line for each choice, with its reason, and the command that trains it.

    statuses: of the pieces of advice by name. Without an arm of LoRA, a line that says so.
    """
    # Running text is scored by another measure, and is another way to use a model.
    instructions = [s for s in studies if not s.is_cpt and advice.loras_of(s)]
    if not instructions:
        return ["no config: no study of instruction finetuning has an arm of LoRA"]
    targets, why_targets = _targets(instructions, statuses["modules"])
    rank, why_rank = _rank(instructions, statuses["rank"])
    steps, why_steps = _steps(instructions)
    setting = Setting(targets, rank, steps)
    rate = _rate(instructions, setting)
    return [
        "The config to use:",
        f"  data     {rate.base} (instructions: {WORDS[statuses['instructions']]})",
        f"  modules  {', '.join(targets)} ({why_targets})",
        f"  rank     {rank} ({why_rank})",
        f"  steps    {steps} ({why_steps})",
        f"  lr       {rate.value:.3g} ({rate.why})",
        _command(rate, setting),
    ]


def _command(rate: Rate, setting: Setting) -> str:
    file, _, words = rate.base.partition(":")
    named = file if file.endswith(".py") else f"configs/{file}.py"
    joined = ",".join(filter(None, (words, f"lora,r={setting.rank}")))
    fields = {
        "optim.lr": f"{rate.value:.3g}",
        "adapter.targets": setting.targets,
        "train.steps": setting.steps,
    }
    flags = [f"--config.{name}={x}" for name, x in fields.items()]
    arguments = (f"--config={named}:{joined}", *flags, "--workdir=runs/advice")
    return " ".join(["python -m lfl_jax.main", *map(shlex.quote, arguments)])


def _learned(study: Answered, names: Sequence[str]) -> dict[str, float]:
    """Of each arm, at its best rate and longest length."""
    grids = study.findings.grids
    return {name: Trained(name, grids[name], grids[name].longest).mean for name in names}


def _most(learned: Mapping[str, float]) -> str:
    return max(learned, key=learned.__getitem__)


def _targets(studies: Sequence[Answered], status: Status) -> tuple[tuple[str, ...], str]:
    families = [(study, advice.modules_family(study)) for study in studies]
    compared = [(study, family) for study, family in families if family]
    if not compared:
        (study, *_) = studies
        return study.findings.traits[advice.loras_of(study)[0]].targets, WORDS[status]
    study, family = compared[0]
    most = _most(_learned(study, family))
    # All modules, unless fewer are known to do better.
    name = most if status is Status.CONTRADICTED else family[0]
    return study.findings.traits[name].targets, f"{WORDS[status]}; {most} learned most"


def _rank(studies: Sequence[Answered], status: Status) -> tuple[int, str]:
    for study in studies:
        family = advice.ranks_family(study)
        if len(family) > 1:
            most = _most(_learned(study, family))
            name = most
            if status is Status.UNDECIDED:
                name = advice.nearest_to_rank(study, family)
            rank = study.findings.traits[name].rank
            return rank, f"{WORDS[status]}; {most} learned most, {advice.RANK} takes less memory"
    return advice.RANK, WORDS[Status.UNTESTED]


def _steps(studies: Sequence[Answered]) -> tuple[int, str]:
    """The length at which LoRA of the rank nearest to the advice's learned most."""
    for study in studies:
        if study.epochs:
            name = advice.nearest_to_rank(study, advice.loras_of(study))
            grid = study.findings.grids[name]
            learned = {steps: Trained(name, grid, steps).mean for steps in grid.lengths}
            steps = max(learned, key=learned.__getitem__)
            return steps, f"{study.epochs[steps]:.2g} epochs; {name} learned most at that length"
    (study, *_) = studies
    longest = max(grid.longest for grid in study.findings.grids.values())
    return longest, WORDS[Status.UNTESTED]


def _rate(studies: Sequence[Answered], setting: Setting) -> Rate:
    """The best rate of the arm that is nearest to a setting."""
    candidates = [
        (_distance(study, name, setting), index, name)
        for index, study in enumerate(studies)
        for name, traits in study.findings.traits.items()
        if traits.kind == LORA and traits.rank
    ]
    distance, index, name = min(candidates)
    arm = f"{name}{', the arm nearest to it' if any(distance) else ''}"
    return _best_rate(studies[index], name, arm)


def _best_rate(study: Answered, name: str, arm: str) -> Rate:
    """The optimum of an arm's sweep, else the best of the rates that were tried."""
    known = next(one for one in study.findings.best_rates if one.method == name)
    if known.optimum is not None:
        low, high = known.optimum.interval()
        why = f"best of {arm}, 95 % interval {low:.3g} to {high:.3g}"
        return Rate(known.optimum.rate, why, study.base)
    grid = study.findings.grids[name]
    cells = grid.of_length(grid.longest)
    cell = cells[np.argmax(grid.arm.x.means()[cells])]
    return Rate(float(grid.rates[cell]), f"best of {arm}; {known.reason}", study.base)


def _distance(study: Answered, name: str, setting: Setting) -> tuple[bool, float, bool]:
    """Other modules count most, then the rank on a log scale, then the length."""
    traits, grid = study.findings.traits[name], study.findings.grids[name]
    factor = abs(float(np.log(traits.rank / setting.rank)))
    return traits.targets != setting.targets, factor, grid.longest != setting.steps
