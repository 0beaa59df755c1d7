"""Whether the verdicts can be trusted: many simulated studies whose truth is known.

A simulated study has the design of a real one and its variances (of seeds, items and their
interaction), and a planted gap. Reported are how often a verdict is wrong, how often the interval
holds the truth, and how often a gap of a given size is found.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from lfl_jax.errors import UserError
from lfl_jax.statistics.frontier import Arm, Axis, gap
from lfl_jax.statistics.verdicts import Verdict, decide


@dataclass(frozen=True)
class Design:
    """What a simulated study looks like. Scores are fractions of correct items.

    learning: each cell's true learning, the same grid for both arms. forgetting: at no and at all
    learning; straight in between. The deviations are standard deviations on the probit scale, on
    which seeds and items add up without leaving 0 to 1: run, of a run over its seeds; item, of the
    items' difficulty, the same for all runs; arm_item, of how much an item differs between the
    arms, the same for all seeds.
    """

    seeds: int = 5
    items: int = 256
    learning: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.95)
    forgetting: tuple[float, float] = (0.05, 0.6)
    run: float = 0.06
    item: float = 0.8
    arm_item: float = 0.2

    @property
    def spread(self) -> float:
        """Of the latent score, with what is drawn anew for every answer."""
        return math.sqrt(1 + self.run**2 + self.item**2 + self.arm_item**2)

    @property
    def noise_width(self) -> float:
        """The standard deviation over seeds of one run's measured score, at middling forgetting."""
        middle = sum(self.forgetting) / 2
        slope = float(stats.norm.pdf(stats.norm.ppf(middle))) / self.spread
        return math.sqrt((slope * self.run) ** 2 + middle * (1 - middle) / self.items)


@dataclass(frozen=True)
class Rates:
    """Shares of simulated studies by verdict; coverage: of the intervals, which hold the truth.

    A study whose frontiers share too little counts as undecided, as a real one would.
    """

    studies: int
    gap: float
    more: float
    less: float
    equivalent: float
    undecided: float
    coverage: float


def simulate(design: Design, planted: float, rng: np.random.Generator) -> tuple[Arm, Arm]:
    """Two arms of one study; the first forgets `planted` more at every learning."""
    # Items are as hard for one arm as for the other, but for what an arm itself does to an item.
    learned, forgotten = rng.normal(0, design.item, (2, design.items))
    return (
        _arm("first", design, planted, learned, forgotten, rng),
        _arm("second", design, 0.0, learned, forgotten, rng),
    )


def calibrate(design: Design, planted: float, margin: float, studies: int, seed: int = 0) -> Rates:
    """Simulated studies with a planted gap, each decided as a real one is."""
    rng = np.random.default_rng(seed)
    counts, intervals, covered = dict.fromkeys(Verdict, 0), 0, 0
    # As a real study would: a gap that cannot be computed leaves the question open.
    for _ in range(studies):
        arms = simulate(design, planted, rng)
        try:
            effect = gap(*arms).effect
        except UserError:
            counts[Verdict.UNDECIDED] += 1
            continue
        counts[decide(effect, margin).verdict] += 1
        low, high = effect.interval()
        intervals += 1
        covered += low <= planted <= high
    shares = [counts[verdict] / studies for verdict in Verdict]
    return Rates(studies, planted, *shares, covered / max(intervals, 1))


def _arm(
    name: str,
    design: Design,
    planted: float,
    learned: Float[np.ndarray, " I"],
    forgotten: Float[np.ndarray, " I"],
    rng: np.random.Generator,
) -> Arm:
    low, high = design.forgetting
    x = np.array(design.learning)
    y = low + (high - low) * x + planted
    return Arm(name, _axis(design, x, learned, rng), _axis(design, y, forgotten, rng))


def _axis(
    design: Design,
    truth: Float[np.ndarray, " P"],
    difficulty: Float[np.ndarray, " I"],
    rng: np.random.Generator,
) -> Axis:
    """Correct or not, by seed, cell and item: so that the mean over all is the truth (probit)."""
    runs = rng.normal(0, design.run, (design.seeds, len(truth), 1))
    differs = rng.normal(0, design.arm_item, design.items)
    # The latent scores' spread flattens the probit curve: without the factor the mean would not be
    # the truth.
    level = stats.norm.ppf(truth)[:, None] * design.spread
    latent = level + runs + difficulty + differs + rng.normal(size=(*runs.shape[:2], design.items))
    return Axis((latent > 0).astype(np.float64))
