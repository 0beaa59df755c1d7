"""The runs of a study's arms at their best learning rates, from the study's report."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.studies.runs import run_name

RUNS = Path("report/tables/runs.csv")

# {(learning rate, steps): {seed: learning}}
Learned = dict[tuple[float, int], dict[int, float]]


@dataclass(frozen=True)
class Arm:
    """An arm at its longest length and the rate at which it learned most there, over seeds.

    folders: {seed: run directory}.
    """

    name: str
    rate: float
    folders: Mapping[int, Path]


def read(folder: Path, names: Sequence[str] = ()) -> list[Arm]:
    """Every arm that trained, or those named, over the seeds that all of them have.

    UserError for a directory without a report, an arm that is not there, and no seed in common.
    """
    by_arm = _learned(folder)
    unknown = [name for name in names if name not in by_arm]
    if unknown:
        raise UserError(f"no trained arm {unknown[0]!r} in {folder}; there are {', '.join(by_arm)}")
    arms = [_at_best(folder, name, by_arm[name]) for name in names or by_arm]
    seeds = set.intersection(*(set(arm.folders) for arm in arms))
    if not seeds:
        raise UserError(f"{folder}: arms {', '.join(arm.name for arm in arms)} share no seed")
    return [_of_seeds(arm, sorted(seeds)) for arm in arms]


def _of_seeds(arm: Arm, seeds: Sequence[int]) -> Arm:
    return Arm(arm.name, arm.rate, {seed: arm.folders[seed] for seed in seeds})


def _learned(folder: Path) -> dict[str, Learned]:
    """{arm: what its runs learned}, of runs as they were trained."""
    file = folder / RUNS
    if not file.exists():
        raise UserError(f"{folder} has no report: {RUNS} is missing; run the study first")
    by_arm: dict[str, Learned] = defaultdict(lambda: defaultdict(dict))
    with files.expecting(file, "a study's table of runs"), file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            # Arms without training alter the change of others.
            if row["change"] in ("1", "1.0"):
                cell = float(row["learning rate"]), int(row["steps"])
                by_arm[row["method"]][cell][int(row["seed"])] = float(row["learning"])
    return dict(by_arm)


def _at_best(folder: Path, name: str, learned: Learned) -> Arm:
    longest = max(steps for _, steps in learned)
    means = {
        rate: float(np.mean(list(by_seed.values())))
        for (rate, steps), by_seed in learned.items()
        if steps == longest
    }
    rate = max(means, key=means.__getitem__)
    # Names as the study gave them, which a rounded rate would not be.
    names = {seed: run_name(name, rate, longest, seed) for seed in learned[rate, longest]}
    return Arm(name, rate, {seed: folder / "runs" / run for seed, run in names.items()})
