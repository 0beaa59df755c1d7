"""What others published about LoRA, forgetting and learning rates, and what a study says of it.

A new claim is a line of CLAIMS and its rule: a function of a study's findings.
"""

import dataclasses
import functools
from dataclasses import dataclass

from lfl_jax.statistics.multiplicity import holm
from lfl_jax.studies.claims import (
    distance,
    diversity,
    intruder_dimensions,
    lora_and_full,
    regularisers,
    variants,
    weights,
)
from lfl_jax.studies.claims.claim import Checked, Claim, Status
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import FULL, LORA

PAPER = "arXiv 2405.09673"
LEVEL = 0.05


CLAIMS: dict[str, Claim] = {
    "learns_less": Claim(
        "LoRA learns less than full finetuning, each at its best learning rate.",
        PAPER,
        lora_and_full.learns_less,
    ),
    "forgets_less": Claim(
        "LoRA forgets less than full finetuning, each at its best learning rate.",
        PAPER,
        lora_and_full.forgets_less_at_best,
    ),
    "forgets_less_at_equal_learning": Claim(
        "LoRA forgets less than full finetuning where both have learned as much.",
        PAPER,
        lora_and_full.forgets_less_at_equal_learning,
    ),
    "learning_rate_explains": Claim(
        "The gap is the learning rate's: at a low one, full finetuning keeps general ability.",
        "arXiv 2509.20758",
        lora_and_full.is_the_learning_rate,
    ),
    "full_forgets_with_rate": Claim(
        "Full finetuning forgets more the higher its learning rate.",
        "arXiv 2509.20758",
        functools.partial(lora_and_full.grows_with_rate, FULL),
    ),
    "lora_forgets_with_rate": Claim(
        "LoRA forgets more the higher its learning rate.",
        "asked here",
        functools.partial(lora_and_full.grows_with_rate, LORA),
    ),
    "rate_ratio": Claim(
        "LoRA's best learning rate is ten times that of full finetuning.",
        f"{PAPER}, instruction finetuning",
        lora_and_full.is_tenfold,
    ),
    "divergence_explains": Claim(
        "Forgetting is a function of the divergence from the base, whatever the method.",
        "arXiv 2509.04259",
        distance.explains_forgetting,
    ),
    "divergence_explains_more": Claim(
        "The divergence explains forgetting better than anything else that is known of a run.",
        "arXiv 2509.04259",
        distance.explains_more_than_others,
    ),
    "rank_orders_learning": Claim(
        "The higher LoRA's rank, the more it learns.", PAPER, variants.rank_orders_learning
    ),
    "rank_orders_forgetting": Claim(
        "The higher LoRA's rank, the more it forgets.", PAPER, variants.rank_orders_forgetting
    ),
    "sensitivity": Claim(
        "Learning depends on the learning rate most, then on the target modules, then on the rank.",
        PAPER,
        variants.sensitivity_order,
    ),
    "variants_tie": Claim(
        "Variants of LoRA learn as much as LoRA does, each at its best learning rate.",
        "arXiv 2602.04998",
        variants.variants_tie,
    ),
    "regularises_more": Claim(
        "LoRA keeps the base's abilities better than weight decay and dropout do.",
        PAPER,
        regularisers.keeps_more,
    ),
    "diversity": Claim(
        "LoRA keeps answers more diverse than full finetuning does.",
        PAPER,
        diversity.is_kept_better,
    ),
    "distances_explain_less": Claim(
        "Distances and ranks of the weights explain forgetting worse than the divergence does.",
        "arXiv 2509.04259",
        weights.distances_explain_less,
    ),
    "rank_of_change": Claim(
        "Full finetuning's weight change has a rank 10 to 100 times LoRA's.",
        PAPER,
        weights.full_has_higher_rank,
    ),
    "intruders_forget": Claim(
        "The more intruder dimensions LoRA's change has, the more it forgets.",
        "arXiv 2410.21228",
        intruder_dimensions.intruders_forget,
    ),
    "intruders_cause": Claim(
        "Intruder dimensions cause forgetting: without them a LoRA forgets less.",
        "arXiv 2410.21228",
        intruder_dimensions.intruders_cause,
    ),
    "curvature_sets_rate": Claim(
        "A method's best learning rate falls with the top Hessian eigenvalue at step 0.",
        "arXiv 2602.04998",
        weights.best_rate_falls_with_curvature,
    ),
}


@dataclass(frozen=True)
class Result:
    """A claim of CLAIMS as a study checked it. p_holm: corrected for the number of claims."""

    name: str
    claim: Claim
    checked: Checked
    p_holm: float | None = None

    @property
    def evidence(self) -> str:
        """The numbers that the status rests on, or why it was not tested."""
        return self.checked.evidence


def check(findings: Findings) -> list[Result]:
    """Every claim; a decision that Holm's correction takes back is undecided."""
    checked = {name: claim.check(findings) for name, claim in CLAIMS.items()}
    p_values = {name: one.p for name, one in checked.items() if one.p is not None}
    adjusted = holm(p_values)
    return [_result(name, one, adjusted.get(name)) for name, one in checked.items()]


def _result(name: str, checked: Checked, p_holm: float | None) -> Result:
    if p_holm is not None and p_holm >= LEVEL and checked.status is not Status.UNDECIDED:
        evidence = f"{checked.evidence}; p after Holm {p_holm:.2g}"
        checked = dataclasses.replace(checked, status=Status.UNDECIDED, evidence=evidence)
    return Result(name, CLAIMS[name], checked, p_holm)
