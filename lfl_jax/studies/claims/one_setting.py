"""Claims about one setting of the config: arms that differ in it alone, compared.

Every pair of such arms of a study is compared, whether the study declared it as a contrast or not;
what was not declared is corrected with all other claims.
"""

import itertools
from collections.abc import Callable

from lfl_jax.data import mixes
from lfl_jax.statistics.effects import Part, over_seeds_and_items
from lfl_jax.statistics.verdicts import Verdict, decide
from lfl_jax.studies import answers
from lfl_jax.studies.answers import PRIMARY
from lfl_jax.studies.claims import best
from lfl_jax.studies.claims.claim import (
    Checked,
    of_decision,
    of_primary,
    together,
    untested,
)
from lfl_jax.studies.claims.lora_and_full import of_learning
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import DERIVED, Traits

SOURCE, TARGETS, ALPHA = "data.source", "adapter.targets", "adapter.alpha"
OPTIMIZER = "optim.name"
# An optimizer has momenta of its own.
MOMENTA = frozenset({"optim.b1", "optim.b2"})
ATTENTION, MLP = frozenset("qkvo"), frozenset({"gate", "up", "down"})
# The share of replayed examples that the published claim is about.
ONE_PERCENT = 0.01

# (the first arm's settings, the second's) -> whether the claim is about them, in this order
AreMeant = Callable[[Traits, Traits], bool]
Pair = tuple[str, str]


def pairs(findings: Findings, setting: str, are_meant: AreMeant, *besides: str) -> list[Pair]:
    """Arms that differ in a setting, and at most in those besides."""
    kinds = {name: one for name, one in findings.traits.items() if one.kind != DERIVED}
    compared = []
    for first, second in itertools.permutations(kinds, 2):
        differing = kinds[first].differs_in(kinds[second])
        is_alone = setting in differing and differing <= {setting, *besides}
        if is_alone and are_meant(kinds[first], kinds[second]):
            compared.append((first, second))
    return compared


def penalty_keeps(field: str, findings: Findings) -> Checked:
    """With the penalty an arm forgets less than without, at equal learning."""
    compared = pairs(findings, field, lambda x, y: x.settings[field] > 0 == y.settings[field])
    checks = [_at_equal_learning(findings, *pair, Verdict.LESS) for pair in compared]
    return together(checks, f"no two arms differ in {field} alone")


def scaling_follows_the_frontier(findings: Findings) -> Checked:
    """Finished changes, scaled, forget as much as runs at lower rates that learned as much."""
    checks = []
    for method, grid in findings.grids.items():
        source = findings.traits[method].rest.partition("-")[0]
        scales = [cell.point.scale is not None for cell in grid.cells]
        if findings.traits[method].kind == DERIVED and all(scales) and source in findings.grids:
            checks.append(_at_equal_learning(findings, method, source, Verdict.EQUIVALENT))
    return together(checks, "no arm without training scales the change of another one")


def _at_equal_learning(findings: Findings, first: str, second: str, claimed: Verdict) -> Checked:
    """The primary contrast, where it was declared; else the same question, to be corrected."""
    primary = {(one.first, one.second): one for one in findings.answers if one.equal == PRIMARY}
    answer, rule = primary.get((first, second)), of_primary
    if answer is None:
        grids = findings.grids[first], findings.grids[second]
        answer, rule = answers.ask(PRIMARY, *grids, findings.question.margin), of_decision
    if answer.decision is None:
        return untested(answer.reason)
    return rule(answer.decision, claimed, f"{first} – {second}:")


def one_percent_keeps_all(findings: Findings) -> Checked:
    """With 1 % of the source mixed in, an arm forgets no more than the margin, at its best rate."""
    compared = pairs(findings, SOURCE, _is_replay)
    replayed = dict.fromkeys(first for first, _ in compared)
    return together(
        [_forgets_nothing(findings, method) for method in replayed],
        "no arm has 1 % of replay (data.source) beside one without",
    )


def _is_replay(first: Traits, second: Traits) -> bool:
    """Whether 1 % of the first's examples are of a source that the second has not got."""
    shares, without = (mixes.parse(str(one.settings[SOURCE])) for one in (first, second))
    names = {(one.name, one.folder) for one in without}
    added = sum(one.weight for one in shares if (one.name, one.folder) not in names)
    share = added / sum(one.weight for one in shares)
    return len(shares) > len(without) and abs(share - ONE_PERCENT) < ONE_PERCENT / 10


def _forgets_nothing(findings: Findings, method: str) -> Checked:
    grid = findings.grids[method]
    cells = best.chosen_cells(grid, grid.longest)
    forgotten = Part(best.at_best(grid.arm.y, cells), grid.arm.y.clusters)
    decision = decide(over_seeds_and_items(forgotten), findings.question.margin)
    label = f"{method}, where it learned most, has forgotten"
    return of_decision(decision, Verdict.EQUIVALENT, label)


def lion_learns_more(findings: Findings) -> Checked:
    """LionW learns more than AdamW, each at its best learning rate."""
    compared = pairs(findings, OPTIMIZER, _is_lion, *MOMENTA)
    return together(
        [_learns(findings, *pair, Verdict.MORE) for pair in compared],
        "no two arms differ in their optimizer alone",
    )


def _is_lion(first: Traits, second: Traits) -> bool:
    return (first.settings[OPTIMIZER], second.settings[OPTIMIZER]) == ("lionw", "adamw")


def larger_alpha_learns_more(findings: Findings) -> Checked:
    """The arm of the largest alpha learns more than others of its rank, each at its best rate."""
    compared = pairs(findings, ALPHA, lambda x, y: x.settings[ALPHA] > y.settings[ALPHA])
    smaller = {second for _, second in compared}
    # Those in between are compared with the largest alone.
    checks = [_learns(findings, *pair, Verdict.MORE) for pair in compared if pair[0] not in smaller]
    return together(checks, "no two arms differ in alpha alone")


def attention_learns_less(findings: Findings) -> Checked:
    """LoRA of attention's matrices alone learns less than of all, each at its best rate."""
    return _part_and_all(findings, ATTENTION, Verdict.LESS)


def mlp_learns_as_all(findings: Findings) -> Checked:
    """LoRA of the MLP's matrices alone learns as much as of all, each at its best rate."""
    return _part_and_all(findings, MLP, Verdict.EQUIVALENT)


def _part_and_all(findings: Findings, part: frozenset[str], claimed: Verdict) -> Checked:
    compared = pairs(
        findings,
        TARGETS,
        lambda x, y: {*x.targets} == part and {*y.targets} == ATTENTION | MLP,
    )
    checks = [_learns(findings, *pair, claimed) for pair in compared]
    return together(checks, "no two arms of LoRA differ in their target modules so, and alone")


def _learns(findings: Findings, first: str, second: str, claimed: Verdict) -> Checked:
    return of_learning(findings, (first, second), claimed, reference=second)
