"""What a search may say: its best candidate, how sure that is, and whether its range held it."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lfl_jax.errors import UserError
from lfl_jax.statistics import learning_rates
from lfl_jax.statistics.effects import Effect, Part, over_seeds_and_items
from lfl_jax.statistics.frontier import Axis
from lfl_jax.statistics.learning_rates import Optimum
from lfl_jax.studies.search.rungs import Rung
from lfl_jax.studies.search.search import Candidate, SearchConfig

RESAMPLES = 2000
# No value of an ordered axis is lower.
LEAST = ("rank", 1)


@dataclass(frozen=True)
class Choice:
    """The best candidate of the last rung.

    share: of the resamples of seeds and dev items in which it is chosen again. optimum: of the
    learning rate at its modules and rank, or why there is none. edges: why the range was too narrow
    for it to be the best; empty where it was wide enough.
    """

    best: Candidate
    score: Effect
    share: float
    optimum: Optimum | None
    no_optimum: str
    edges: tuple[str, ...]


def choose(search: SearchConfig, last: Rung) -> Choice:
    """The best of the last rung."""
    best = last.best
    optimum, reason = _optimum(last)
    edges = tuple(_edges(search, last))
    return Choice(best, last.score(best), share_of_best(last), optimum, reason, edges)


def share_of_best(last: Rung, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """How often the best candidate is chosen from resampled seeds and clusters of dev items.

    All candidates are resampled together, as they share both: what an easy item or a lucky seed
    does to all of them decides nothing.
    """
    rng = np.random.default_rng(seed)
    names = list(last.values)
    values = last.sign * np.stack([last.values[name] for name in names])
    labels = Part(values[0], last.clusters).labels()
    seeds, clusters = values.shape[1], int(labels.max()) + 1

    chosen = np.empty(resamples, int)
    for index in range(resamples):
        drawn_seeds = rng.integers(seeds, size=seeds)
        counts = np.bincount(rng.integers(clusters, size=clusters), minlength=clusters)
        # Means over items: clusters differ in size, so that the weights have no fixed sum.
        scores = values[:, drawn_seeds].mean(axis=1) @ counts[labels] / counts[labels].sum()
        chosen[index] = int(scores.argmax())
    return float(np.mean(chosen == names.index(last.best)))


def _edges(search: SearchConfig, last: Rung) -> Iterator[str]:
    """Why the best value of an ordered axis is at the edge of what was searched, where it is."""
    for axis, searched in (("lr", search.rates), ("rank", search.ranks)):
        value = getattr(last.best, axis)
        # Of a single rank nothing was asked, and below rank 1 there is none.
        if len(searched) == 1 or value not in (searched[0], searched[-1]) or (axis, value) == LEAST:
            continue
        side, wanted = ("lowest", "lower") if value == searched[0] else ("highest", "higher")
        yield (
            f"the best {axis}, {value:g}, is the {side} searched{_lead(last, axis, searched)}: add"
            f" {wanted} ones to {axis}"
        )


def _lead(last: Rung, axis: str, searched: Sequence[float | int]) -> str:
    """How much better the best candidate is than the one beside it, at the edge of an axis."""
    best = last.best
    inner = searched[1] if getattr(best, axis) == searched[0] else searched[-2]
    beside = dataclasses.replace(best, **{axis: inner})
    # One that diverged.
    if beside not in last.values:
        return ""
    difference = last.sign * (last.values[best] - last.values[beside])
    lead = over_seeds_and_items(Part(difference, last.clusters))
    low, high = lead.interval()
    return f" and better than {inner:g} by {lead.mean:.3g} [{low:.3g}, {high:.3g}]"


def _optimum(last: Rung) -> tuple[Optimum | None, str]:
    """Of the learning rate, by a parabola through the rates at the best one's modules and rank."""
    best = last.best
    # Of other modules and ranks the best rates are others.
    sweep = sorted((c for c in last.values if c.arm == best.arm), key=lambda c: c.lr)
    scores = Axis(np.stack([last.values[c] for c in sweep], axis=1), last.clusters)
    rates = np.array([c.lr for c in sweep])
    better = last.sign > 0
    try:
        return learning_rates.optimum((best.arm, rates, scores), higher_is_better=better), ""
    except UserError as error:
        return None, str(error)
