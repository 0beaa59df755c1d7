"""Seconds of a step and hours of a run, as bands: at best by the peaks, and as programs reach them.

Fast is a program that overlaps everything and is bound by the slowest of products, memory and
collectives. Slow overlaps nothing and reaches a third of the peaks.
"""

import dataclasses

from lfl_jax.config import Config
from lfl_jax.planning import compute, length
from lfl_jax.planning.bands import Band, Number
from lfl_jax.planning.compute import Collective, Work
from lfl_jax.planning.evaluations import Evaluations
from lfl_jax.planning.layout import Layout
from lfl_jax.planning.length import Steps
from lfl_jax.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step: all of it, and its parts at the peaks themselves."""

    total: Band
    products: Number
    memory: Number
    collectives: Number

    @property
    def bound(self) -> str:
        """The slowest part at the peaks."""
        parts = {"products": self.products, "memory": self.memory, "links": self.collectives}
        return max(parts, key=parts.__getitem__)


def step(layout: Layout, topology: Topology) -> StepTime:
    """The time of one step."""
    work, chip, reached = compute.of(layout), topology.chip, topology.reached
    peak = chip.peak(layout.cfg.compute_dtype)
    products = Band(_products(work, topology, peak), _products(work, topology, peak, slow=True))
    traffic = Band(*work.traffic) * (1 / chip.hbm_rate)
    links = sum(seconds(collective, topology) for collective in work.collectives)
    # Fast overlaps all three, slow does one after the other.
    fast = (
        products.fast / reached.products.fast,
        traffic.fast / reached.memory.fast,
        links / reached.links.fast,
    )
    slow = (
        products.slow / reached.products.slow,
        traffic.slow / reached.memory.slow,
        links / reached.links.slow,
    )
    return StepTime(Band(max(fast), sum(slow)), products.fast, traffic.fast, links)


def _products(work: Work, topology: Topology, peak: Number, *, slow: bool = False) -> Number:
    """Seconds of all products at the peak.

    Narrow ones have a measured rate of their own, or at worst the sides of a matrix unit are filled
    up with zeros.
    """
    wide = work.wide + work.attention
    if topology.chip.narrow:
        return wide / peak + work.narrow / topology.chip.narrow
    return (wide + (work.filled if slow else work.narrow)) / peak


def seconds(collective: Collective, topology: Topology) -> Number:
    """Seconds of a collective at the links' rate."""
    return collective.bytes / topology.rate(collective.members, collective.span)


@dataclasses.dataclass(frozen=True)
class RunTime:
    """A whole run. training, evaluating: hours, None where the steps are unknown; tokens: of the
    fewest and of the most steps."""

    steps: Steps
    tokens: tuple[Number, Number] | None
    training: Band | None
    evaluating: Band
    unknown: tuple[str, ...]

    @property
    def hours(self) -> Band | None:
        """Training and evaluations."""
        return None if self.training is None else self.training + self.evaluating


def run(layout: Layout, topology: Topology, time: StepTime, evaluations: Evaluations) -> RunTime:
    """The time of the config's whole run."""
    config: Config = layout.config
    steps = length.of(config)
    evaluating = evaluations.seconds * (1 / 3600)
    if steps.fewest is None:
        return RunTime(steps, None, None, evaluating, evaluations.unknown)
    of_step = config.train.batch * config.data.seq_len
    counts = (steps.fewest, steps.most)
    training = Band(time.total.fast * counts[0] / 3600, time.total.slow * counts[1] / 3600)
    return RunTime(
        steps,
        (counts[0] * of_step, counts[1] * of_step),
        training,
        evaluating,
        evaluations.unknown,
    )
