"""The paper's advice on how to use LoRA (2405.09673), each piece by its own contrast.

Learning is compared at every arm's own best learning rate, chosen on other seeds. A rule reads
several studies, and takes the first that can tell: instructions and running text are two.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lfl_jax.errors import UserError
from lfl_jax.statistics import jackknife, sensitivity
from lfl_jax.statistics.effects import (
    Effect,
    Part,
    in_words,
    independent_difference,
    over_seeds_and_items,
)
from lfl_jax.statistics.verdicts import Verdict, decide
from lfl_jax.studies.arms import Grid, base_learning
from lfl_jax.studies.claims import best, lora_and_full, variants
from lfl_jax.studies.claims.claim import (
    Checked,
    Claim,
    Status,
    doubted,
    of_decision,
    together,
    untested,
)
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import LORA

PAPER = "arXiv 2405.09673, section 6"
FIRST_VERSION = "arXiv 2405.09673, first version"
EPOCHS, RANK = 4.0, 16
# Rows are whole: a length that was meant as 4 epochs may be a little less.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Answered:
    """A study with its findings. base: its config's. is_cpt: whether it trains on running text.

    epochs: {steps: passes over the data}, of a study of several lengths.
    """

    findings: Findings
    base: str
    is_cpt: bool
    epochs: Mapping[int, float]


Studies = Sequence[Answered]


@dataclass(frozen=True)
class Trained:
    """An arm at a length, each seed at the rate that learned most with the other seeds."""

    label: str
    grid: Grid
    length: int

    @property
    def cells(self) -> Int[np.ndarray, " S"]:
        """Of each seed."""
        return best.chosen_cells(self.grid, self.length)

    @property
    def learned(self) -> Float[np.ndarray, "S I"]:
        """Of every item."""
        return best.at_best(self.grid.arm.x, self.cells)

    @property
    def mean(self) -> float:
        """Over items and seeds."""
        return float(self.learned.mean())

    @property
    def doubt(self) -> str:
        """Why it may have learned more beyond its sweep; "" where its best rate is inside."""
        at_edge = best.is_at_edge(self.grid, self.length)
        return f"the best rate of {self.label} is the edge of its sweep" if at_edge else ""


def learns_more(findings: Findings, first: Trained, second: Trained) -> Checked:
    """Whether the first learned more than the second."""
    values = first.learned - second.learned
    effect = over_seeds_and_items(Part(values, first.grid.arm.x.clusters))
    try:
        margin = lora_and_full.learning_margin(findings, second.grid)
    except UserError as error:
        return untested(str(error))
    label = f"{first.label} – {second.label}: learning"
    checked = of_decision(decide(effect, margin), Verdict.MORE, label)
    # What might learn more beyond its sweep did not lose for certain.
    for loser, status in ((second, Status.REPRODUCED), (first, Status.CONTRADICTED)):
        if loser.doubt:
            checked = doubted(checked, status, loser.doubt)
    return checked


def all_of(checks: Sequence[Checked], nothing: str) -> Checked:
    """A piece of advice with several parts: it holds where all do, and not where one does not."""
    tested = [checked for checked in checks if checked.status is not Status.UNTESTED]
    # One part that fails is enough, whatever the others say; its own test is what that rests on.
    if any(checked.status is Status.CONTRADICTED for checked in tested):
        refuting = [one for one in tested if one.status is Status.CONTRADICTED]
        p_values = [one.p for one in refuting if one.p is not None]
        evidence = "; ".join(checked.evidence for checked in tested)
        return Checked(Status.CONTRADICTED, evidence, min(p_values, default=None))
    return together(tested, nothing)


def first_tested(studies: Studies, rule: Callable[[Answered], Checked], nothing: str) -> Checked:
    """Of the first study that can tell; else why the last one that might have could not."""
    checks = [rule(study) for study in studies]
    for checked in checks:
        if checked.status is not Status.UNTESTED:
            return checked
    return checks[-1] if checks else untested(nothing)


def instructions_rather_than_text(studies: Studies) -> Checked:
    """LoRA falls short of full finetuning by more on running text than on instructions.

    By the share of what full finetuning learned, because the two are scored differently.
    """
    compared = []
    for is_cpt, kind in ((True, "continued pretraining"), (False, "instruction finetuning")):
        of_kind = [study for study in studies if study.is_cpt is is_cpt and _pair(study)]
        if not of_kind:
            return untested(f"no study of {kind} has a contrast of LoRA with full finetuning")
        try:
            compared.append(_shortfall(of_kind[0]))
        except UserError as error:
            return untested(str(error))
    text, instructions = compared
    label = f"LoRA learns {text} less than full finetuning of text, {instructions} of instructions"
    difference = independent_difference(text.effect, instructions.effect)
    decision = decide(difference, lora_and_full.SHARE_OF_GAIN)
    checked = of_decision(decision, Verdict.MORE, f"{label}; difference")
    for reason in filter(None, (text.doubt, instructions.doubt)):
        checked = doubted(doubted(checked, Status.REPRODUCED, reason), Status.CONTRADICTED, reason)
    return checked


@dataclass(frozen=True)
class Shortfall:
    """(full - LoRA) / (full - base), of what was learned; doubt: of a best rate at an edge."""

    effect: Effect
    doubt: str

    def __str__(self) -> str:
        return in_words(self.effect.mean, self.effect.interval(), ".1%")


def _pair(study: Answered) -> tuple[str, str] | None:
    return next(iter(lora_and_full.pairs(study.findings)), None)


def _shortfall(study: Answered) -> Shortfall:
    """A ratio of means, linearised by item; UserError where full finetuning learned nothing."""
    findings = study.findings
    grids = [findings.grids[name] for name in _pair(study)]
    length = best.shared_length(grids)
    lora, full = (Trained(grid.arm.name, grid, length) for grid in grids)
    gain = full.learned - base_learning(findings.base, findings.question.measures.learning)
    if not gain.mean() > 0:
        raise UserError(f"{full.label} learned nothing")
    missing = full.learned - lora.learned
    # To first order the ratio moves by this with every item's two values (the delta method).
    share = missing.mean() / gain.mean()
    linear = share + (missing - share * gain) / gain.mean()
    effect = over_seeds_and_items(Part(linear, grids[0].arm.x.clusters))
    return Shortfall(effect, "; ".join(filter(None, (lora.doubt, full.doubt))))


def enough_epochs(studies: Studies) -> Checked:
    """Four epochs learn more than the next shorter length."""
    return first_tested(studies, _enough_epochs, "no study has LoRA at several lengths")


def _enough_epochs(study: Answered) -> Checked:
    steps = sorted(study.epochs)
    # The shortest that is enough, and the longest that is not, are neighbours.
    enough = [n for n in steps if study.epochs[n] >= EPOCHS - TOLERANCE]
    fewer = [n for n in steps if study.epochs[n] < EPOCHS - TOLERANCE]
    loras = loras_of(study)
    if not enough or not fewer or not loras:
        return untested(f"no study has LoRA both at {EPOCHS:g} epochs and at fewer")
    name = nearest_to_rank(study, loras)
    grid = study.findings.grids[name]

    def trained(length: int) -> Trained:
        return Trained(f"{name} at {study.epochs[length]:.2g} epochs", grid, length)

    checked = learns_more(study.findings, trained(enough[0]), trained(fewer[-1]))
    if len(enough) > 1:
        longer = learns_more(study.findings, trained(enough[-1]), trained(enough[0]))
        evidence = f"{checked.evidence}; beyond it: {longer.evidence}"
        return Checked(checked.status, evidence, checked.p)
    return checked


def all_modules(studies: Studies) -> Checked:
    """All modules learn more than any part of them, or more than one and as much as the others."""
    return first_tested(studies, _all_modules, "no two arms of LoRA differ in their modules alone")


def _all_modules(study: Answered) -> Checked:
    family = modules_family(study)
    if len(family) < 2:
        return untested("no two arms of LoRA differ in their modules alone")
    most, *others = (_longest(study, name) for name in family)
    return all_of([learns_more(study.findings, most, other) for other in others], "")


def highest_rank(studies: Studies) -> Checked:
    """The highest rank learns more than rank 16, which forgets less: a compromise."""
    return first_tested(studies, _highest_rank, variants.NO_RANKS)


def _highest_rank(study: Answered) -> Checked:
    family = ranks_family(study)
    middle = nearest_to_rank(study, family) if family else ""
    if len(family) < 2 or middle == family[-1]:
        return untested(f"no arms of LoRA with all modules have rank {RANK} and a higher one")
    high, low = _longest(study, family[-1]), _longest(study, middle)
    y = high.grid.arm.y
    values = best.at_best(low.grid.arm.y, low.cells) - best.at_best(y, high.cells)
    effect = over_seeds_and_items(Part(values, y.clusters))
    label = f"{low.label} – {high.label}: forgetting"
    decision = decide(effect, study.findings.question.margin)
    forgets_less = of_decision(decision, Verdict.LESS, label)
    return all_of([learns_more(study.findings, high, low), forgets_less], "")


def sensitivity_order(studies: Studies) -> Checked:
    """The shares of variance of the rate, the modules and the rank fall in this order."""
    return first_tested(studies, _sensitivity, "no study has a full grid of LoRA")


def _sensitivity(study: Answered) -> Checked:
    checked = variants.sensitivity_order(study.findings)
    if checked.status is Status.UNTESTED:
        return checked
    scores = variants.factorial(study.findings)
    # By leaving out seeds: a share of variance is no mean of one value per seed.
    rate_modules, modules_rank = (
        in_words(effect.mean, effect.interval(), "+.0%")
        for effect in (_share_less(scores, 0, 1), _share_less(scores, 1, 2))
    )
    evidence = f"{checked.evidence}; rate less modules {rate_modules}, modules less rank"
    return Checked(checked.status, f"{evidence} {modules_rank}", checked.p)


def _share_less(scores: Float[np.ndarray, "L M R S"], first: int, second: int) -> Effect:
    names = variants.FACTORS

    def difference(seeds: Int[np.ndarray, " N"]) -> float:
        of_seeds = sensitivity.of_variance(names, scores[..., seeds])
        shares = {share.factor: share.omega2 for share in of_seeds}
        return shares[names[first]] - shares[names[second]]

    # Shares of variance need two seeds.
    return jackknife.over(difference, scores.shape[-1], fewest=2)


def loras_of(study: Answered) -> list[str]:
    """Arms with LoRA of the most modules that any has."""
    traits = study.findings.traits
    loras = [name for name, one in traits.items() if one.kind == LORA and one.rank]
    most = max((len(traits[name].targets) for name in loras), default=0)
    return [name for name in loras if len(traits[name].targets) == most]


def nearest_to_rank(study: Answered, names: Sequence[str], rank: int = RANK) -> str:
    """The arm whose rank is nearest to the advice's, on a log scale."""
    traits = study.findings.traits
    return min(names, key=lambda name: abs(np.log(traits[name].rank / rank)))


def ranks_family(study: Answered) -> list[str]:
    """Arms of LoRA with all modules that differ in their rank alone, by rising rank."""
    with_most = set(loras_of(study))
    families = [f for f in variants.families(study.findings) if set(f) <= with_most]
    return families[0] if families else []


def modules_family(study: Answered) -> list[str]:
    """Arms of LoRA of one rank, that nearest to the advice's, by falling number of modules."""
    traits = study.findings.traits
    alike = {}
    for name, one in traits.items():
        if one.kind == LORA and one.rank:
            alike.setdefault((one.rank, one.rest), []).append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    if not groups:
        return []
    reference = nearest_to_rank(study, [group[0] for group in groups])
    chosen = next(group for group in groups if group[0] == reference)
    return sorted(chosen, key=lambda name: -len(traits[name].targets))


def _longest(study: Answered, name: str) -> Trained:
    grid = study.findings.grids[name]
    return Trained(name, grid, grid.longest)


ADVICE: dict[str, Claim[Studies]] = {
    "instructions": Claim(
        "Use LoRA for instruction finetuning rather than continued pretraining.",
        PAPER,
        instructions_rather_than_text,
    ),
    "epochs": Claim("Train for at least 4 epochs.", PAPER, enough_epochs),
    "modules": Claim("Adapt all modules.", PAPER, all_modules),
    "rank": Claim(
        "Rank 16 is a compromise, and the highest rank learns more.", PAPER, highest_rank
    ),
    "sensitivity": Claim(
        "Choose the learning rate with most care, then the modules, then the rank.",
        FIRST_VERSION,
        sensitivity_order,
    ),
}
