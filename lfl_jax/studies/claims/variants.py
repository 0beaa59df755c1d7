"""Claims about LoRA's rank, its target modules and its variants."""

import dataclasses
import itertools
from collections import defaultdict

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.statistics import sensitivity
from lfl_jax.statistics.effects import Part, over_seeds_and_items
from lfl_jax.statistics.frontier import Axis
from lfl_jax.statistics.verdicts import Verdict, decide
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.claims import best
from lfl_jax.studies.claims.claim import Checked, Status, of_decision, together, untested
from lfl_jax.studies.claims.lora_and_full import learning_margin, of_learning
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import FULL, LORA, SUBSPACE

NO_RANKS = "no two arms of LoRA differ in their rank alone"
FACTORS = ("learning rate", "target modules", "rank")


def rank_orders_learning(findings: Findings) -> Checked:
    """What LoRA learns at its best rate rises with the log of its rank."""
    checks = []
    for family in families(findings):
        try:
            margin = learning_margin(findings, findings.grids[family[0]])
        except UserError as error:
            checks.append(untested(str(error)))
            continue
        checks.append(_slope(findings, family, "learning", margin))
    return together(checks, NO_RANKS)


def rank_orders_forgetting(findings: Findings) -> Checked:
    """What LoRA forgets at its best rate rises with the log of its rank."""
    margin = findings.question.margin
    checks = [_slope(findings, family, "forgetting", margin) for family in families(findings)]
    return together(checks, NO_RANKS)


def _slope(findings: Findings, family: list[str], measure: str, margin: float) -> Checked:
    """Over the log2 of the rank, of arms that differ in nothing else."""
    grids = [findings.grids[method] for method in family]
    ranks = [findings.traits[method].rank for method in family]
    try:
        length = best.shared_length(grids)
    except UserError as error:
        return untested(str(error))
    values = [best.at_best(_axis(grid, measure), best.chosen_cells(grid, length)) for grid in grids]
    slope = best.slope(np.log2(np.array(ranks, float)), np.stack(values, axis=1))
    effect = over_seeds_and_items(Part(slope, _axis(grids[0], measure).clusters))
    label = f"{measure} over ranks {', '.join(map(str, ranks))}, per doubling:"
    return of_decision(decide(effect, margin), Verdict.MORE, label)


def _axis(grid: Grid, measure: str) -> Axis:
    return grid.arm.x if measure == "learning" else grid.arm.y


def families(findings: Findings) -> list[list[str]]:
    """LoRA's arms that differ in their rank alone, alpha aside, by rising rank."""
    groups: dict[tuple, list[str]] = defaultdict(list)
    for method, traits in findings.traits.items():
        if traits.kind == LORA and traits.rank and not findings.grids[method].is_derived:
            groups[traits.targets, traits.rest].append(method)
    by_rank = [sorted(group, key=lambda m: findings.traits[m].rank) for group in groups.values()]
    return [family for family in by_rank if _have_different_ranks(findings, family)]


def _have_different_ranks(findings: Findings, methods: list[str]) -> bool:
    """Of arms that differ in alpha at one rank, alpha does not follow the rank."""
    ranks = {findings.traits[method].rank for method in methods}
    return len(ranks) == len(methods) > 1


def variants_tie(findings: Findings) -> Checked:
    """Every other adapter learns as much as LoRA, each at its best rate."""
    loras = [method for method, traits in findings.traits.items() if traits.kind == LORA]
    # A subspace of few dimensions is no variant: it asks how much a task needs.
    no_variants = (LORA, FULL, SUBSPACE)
    others = [name for name, traits in findings.traits.items() if traits.kind not in no_variants]
    if not loras or not others:
        return untested("the study has no other adapter beside LoRA")
    return together(
        [_ties(findings, method, _nearest(findings, method, loras)) for method in others], ""
    )


def _nearest(findings: Findings, method: str, loras: list[str]) -> str:
    """The arm of LoRA that differs in its kind alone, else the first."""
    wanted = dataclasses.replace(findings.traits[method], kind=LORA)
    alike = [lora for lora in loras if findings.traits[lora] == wanted]
    return (alike or loras)[0]


def _ties(findings: Findings, method: str, lora: str) -> Checked:
    if findings.grids[method].is_derived:
        return untested(f"{method} is not trained")
    return of_learning(findings, (method, lora), Verdict.EQUIVALENT, reference=lora)


def sensitivity_order(findings: Findings) -> Checked:
    """Learning depends on the rate most, then on the modules, then on the rank.

    The order has to be the same without any one of the seeds.
    """
    scores = factorial(findings)
    if scores is None:
        return untested("no full grid of learning rates, target modules and ranks of LoRA")
    seeds = scores.shape[-1]
    if seeds < 3:
        return untested(f"{seeds} seeds: an order needs at least 3, to be repeated without each")
    orders = {_order(np.delete(scores, seed, axis=-1)) for seed in range(seeds)}
    shares = {share.factor: share.omega2 for share in sensitivity.of_variance(FACTORS, scores)}
    evidence = (
        ", ".join(f"{factor} {shares[factor]:.0%}" for factor in FACTORS) + " of the variance"
    )
    if orders == {FACTORS}:
        return Checked(Status.REPRODUCED, evidence)
    if FACTORS in orders:
        return Checked(Status.UNDECIDED, f"{evidence}; the order depends on the seeds")
    return Checked(Status.CONTRADICTED, evidence)


def _order(scores: Float[np.ndarray, "L M R S"]) -> tuple[str, ...]:
    shares = sensitivity.of_variance(FACTORS, scores)
    return tuple(share.factor for share in shares if share.factor in FACTORS)


def factorial(findings: Findings) -> Float[np.ndarray, "L M R S"] | None:
    """Learning by rate, target modules, rank and seed, of the largest full grid of LoRA's arms."""
    groups: dict[str, dict[tuple, str]] = defaultdict(dict)
    for method, traits in findings.traits.items():
        if traits.kind == LORA and not findings.grids[method].is_derived:
            groups[traits.rest][traits.targets, traits.rank] = method
    for group in sorted(groups.values(), key=len, reverse=True):
        scores = _scores(findings, group)
        if scores is not None:
            return scores
    return None


def _scores(findings: Findings, group: dict[tuple, str]) -> Float[np.ndarray, "L M R S"] | None:
    """None where a target lacks a rank, a factor does not vary, or the arms' rates differ."""
    modules = list(dict.fromkeys(targets for targets, _ in group))
    ranks = list(dict.fromkeys(rank for _, rank in group))
    if min(len(modules), len(ranks)) < 2 or len(group) < len(modules) * len(ranks):
        return None
    grids = [findings.grids[group[pair]] for pair in itertools.product(modules, ranks)]
    cells = grids[0].of_length(grids[0].longest)
    if any(grid.cells != grids[0].cells for grid in grids) or len(cells) < 2:
        return None
    # (modules x ranks, seeds, rates) to the order of the factors, seeds last.
    learned = np.stack([grid.arm.x.by_run()[:, cells] for grid in grids])
    seeds_and_rates = learned.shape[1:]
    return learned.reshape(len(modules), len(ranks), *seeds_and_rates).transpose(3, 0, 1, 2)
