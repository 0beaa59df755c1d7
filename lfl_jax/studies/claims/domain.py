"""Claims that training on a target farther from what the base knows forgets more.

Arms that differ in their training data alone are a family; the base's loss on each one's target,
before any training, is its distance. At equal rates steps, tokens and optimizer are equal, and what
is learned is not: a farther target has more to learn. At equal learning the rates are not.
"""

import itertools
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.statistics.effects import Effect, Part, in_words, over_seeds_and_items
from lfl_jax.statistics.verdicts import Verdict, decide
from lfl_jax.studies import answers
from lfl_jax.studies.answers import PRIMARY
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.claims import best
from lfl_jax.studies.claims.claim import Checked, of_decision, together, untested
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.runs import Cell
from lfl_jax.studies.traits import Traits

# Of a run (`records.run_measures`).
DISTANCE = "base_target_nll"
NO_TARGETS = "no two arms differ in their target alone"


@dataclass(frozen=True)
class Family:
    """Arms that differ in their data alone, from the nearest target on."""

    grids: tuple[Grid, ...]

    @property
    def distances(self) -> Float[np.ndarray, " K"]:
        """The base's loss on every target, in nats a token: the same for all runs of an arm."""
        return np.array([grid.measures[DISTANCE].mean() for grid in self.grids])

    @property
    def cells(self) -> list[Cell]:
        """The rates and lengths that all targets have."""
        shared = set.intersection(*(set(grid.cells) for grid in self.grids))
        return sorted(shared)

    def rise(self, cell: Cell) -> Float[np.ndarray, "S I"]:
        """What forgetting of every item rises by, from the nearest target to the farthest.

        By the slope over their distances, which uses all targets.
        """
        values = [grid.arm.y.values[:, grid.cells.index(cell)] for grid in self.grids]
        return best.slope(self.distances, np.stack(values, axis=1)) * np.ptp(self.distances)

    def effect(self, rise: Float[np.ndarray, "S I"]) -> Effect:
        """Its mean; forgetting is of the same items whatever the target."""
        return over_seeds_and_items(Part(rise, self.grids[0].arm.y.clusters))


def farther_forgets_more(findings: Findings) -> Checked:
    """At equal rates and lengths, forgetting rises with the base's loss on the target.

    Averaged over the rates that all targets of a family have. Null: no slope over the targets.
    """
    return together(
        [_at_equal_rates(findings, family) for family in families(findings)], NO_TARGETS
    )


def farther_forgets_more_at_equal_learning(findings: Findings) -> Checked:
    """Of each two neighbouring targets, the farther one forgets more where both learned as much.

    Learned: by how much each target's loss fell. Pairs without a common range are left out, as
    nothing is extrapolated.
    """
    pairs = [pair for family in families(findings) for pair in itertools.pairwise(family.grids)]
    return together([_at_equal_learning(findings, *pair) for pair in pairs], NO_TARGETS)


def families(findings: Findings) -> list[Family]:
    """Those of at least two targets; arms of a target that another arm has, too, are in none.

    Replay and shams change what is trained on, and not the target.
    """
    groups: dict[Hashable, list[Grid]] = defaultdict(list)
    for method, grid in findings.grids.items():
        if DISTANCE in grid.measures and not grid.is_derived:
            groups[_apart_from_data(findings.traits[method])].append(grid)
    found = []
    for group in groups.values():
        by_distance = sorted(group, key=lambda grid: float(grid.measures[DISTANCE].mean()))
        family = Family(tuple(by_distance))
        if len(group) > 1 and np.all(np.diff(family.distances) > 0):
            found.append(family)
    return found


def _apart_from_data(traits: Traits) -> Hashable:
    """Equal for arms that differ in their data alone."""
    # Where only names are known, these say what arms are.
    if not traits.settings:
        return traits
    return tuple(
        (name, repr(value))
        for name, value in sorted(traits.settings.items())
        if not name.startswith("data.")
    )


def _at_equal_rates(findings: Findings, family: Family) -> Checked:
    names = [grid.arm.name for grid in family.grids]
    if not family.cells:
        return untested(f"{', '.join(names)} have no rate in common")
    rises = {cell.mark: family.rise(cell) for cell in family.cells}
    effect = family.effect(np.mean(list(rises.values()), axis=0))
    decision = decide(effect, findings.question.margin)
    label = f"{names[-1]} – {names[0]}, by the slope over {len(names)} targets:"
    checked = of_decision(decision, Verdict.MORE, label)
    by_rate = [f"{rate} {_words(family.effect(rise))}" for rate, rise in rises.items()]
    return Checked(checked.status, f"{checked.evidence} (at {', '.join(by_rate)})", checked.p)


def _at_equal_learning(findings: Findings, nearer: Grid, farther: Grid) -> Checked:
    answer = answers.ask(PRIMARY, farther, nearer, findings.question.margin)
    if answer.decision is None:
        return untested(answer.reason)
    return of_decision(answer.decision, Verdict.MORE, f"{answer.first} – {answer.second}:")


def _words(effect: Effect) -> str:
    return in_words(effect.mean, effect.interval(), "+.3g")
