"""What others published about LoRA, forgetting and learning rates, and what a study says of it.

A new claim is a line of CLAIMS and its rule: a function of a study's findings. Claims about what a
command measures of a study's runs are lines of a dict of their own (`directions.CLAIMS`).
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from lfl_jax.statistics.multiplicity import holm
from lfl_jax.studies.answers import BEST_RATE, PRIMARY
from lfl_jax.studies.claims import (
    curvature,
    distance,
    diversity,
    domain,
    intrinsic_dimension,
    intruder_dimensions,
    lora_and_full,
    one_after_another,
    one_setting,
    prompting,
    rank_patterns,
    regularisers,
    starts,
    variants,
    weights,
)
from lfl_jax.studies.claims.claim import Checked, Claim, Evidence, Status
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import FULL, LORA

PAPER = "arXiv 2405.09673"
LEVEL = 0.05


CLAIMS: dict[str, Claim[Findings]] = {
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
    "attention_learns_less": Claim(
        "LoRA of attention's matrices alone learns less than LoRA of all, each at its best rate.",
        PAPER,
        one_setting.attention_learns_less,
    ),
    "mlp_learns_as_all": Claim(
        "LoRA of the MLP's matrices alone learns as much as LoRA of all, each at its best rate.",
        PAPER,
        one_setting.mlp_learns_as_all,
    ),
    "alpha_learns_more": Claim(
        "At one rank, LoRA with the largest alpha learns more than with smaller ones.",
        PAPER,
        one_setting.larger_alpha_learns_more,
    ),
    "lion_learns_more": Claim(
        "LionW learns more than AdamW, each at its best learning rate.",
        PAPER,
        one_setting.lion_learns_more,
    ),
    "a_zero_rate": Claim(
        "LoRA from A = 0 has the best learning rate of full finetuning.",
        "arXiv 2602.06204",
        starts.rate_carries_over,
    ),
    "rate_falls_with_rank": Claim(
        "From B = 0, LoRA's best learning rate goes with the rank to the power of -1/2.",
        "arXiv 2602.06204",
        starts.rate_falls_with_rank,
    ),
    "replay_keeps_all": Claim(
        "With 1 % of the pretraining data mixed in, finetuning forgets almost nothing.",
        "arXiv 2502.06042",
        one_setting.one_percent_keeps_all,
    ),
    "kl_keeps": Claim(
        "A KL penalty over the non-target vocabulary keeps what finetuning forgets, at equal"
        " learning.",
        "arXiv 2605.29498",
        functools.partial(one_setting.penalty_keeps, "penalty.non_target_kl"),
    ),
    "l2_keeps": Claim(
        "An L2 penalty to the base keeps what finetuning forgets, at equal learning.",
        "arXiv 1802.01483",
        functools.partial(one_setting.penalty_keeps, "penalty.l2"),
    ),
    "scaling_is_the_frontier": Claim(
        "Scaling a finished change trades learning for forgetting as the learning rate does.",
        "arXiv 2109.01903",
        one_setting.scaling_follows_the_frontier,
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
    "rank_grows": Claim(
        "The rank of full finetuning's change grows with training.",
        PAPER,
        rank_patterns.grows_with_training,
    ),
    "rank_in_mlp": Claim(
        "The rank of full finetuning's change is higher in the MLP than in attention.",
        PAPER,
        rank_patterns.is_higher_in_the_mlp,
    ),
    "rank_at_ends": Claim(
        "The rank of full finetuning's change is lower in the first and the last layer.",
        PAPER,
        rank_patterns.is_lower_at_the_ends,
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
    "farther_forgets_more": Claim(
        "Training on a target farther from what the base knows forgets more, at equal rates.",
        f"{PAPER}, of code and maths",
        domain.farther_forgets_more,
    ),
    "farther_forgets_more_at_equal_learning": Claim(
        "Training on a target farther from what the base knows forgets more, at equal learning.",
        "asked here",
        domain.farther_forgets_more_at_equal_learning,
    ),
    "more_than_prompting": Claim(
        "LoRA learns more than the base does from worked examples in its prompt.",
        "arXiv 2205.05638",
        prompting.lora_learns_more,
    ),
    "curvature_sets_rate": Claim(
        "A method's best learning rate falls with the top Hessian eigenvalue at step 0.",
        "arXiv 2602.04998",
        curvature.best_rate_falls_with_curvature,
    ),
    "few_directions": Claim(
        "A random subspace of 1 % as many dimensions as weights learns 90 % of what full"
        " finetuning does.",
        "arXiv 2012.13255",
        intrinsic_dimension.few_are_enough,
    ),
    "sequence_forgets_less": Claim(
        "Trained on tasks one after another, LoRA forgets the earlier ones less than full"
        " finetuning does, each at its best learning rate.",
        "arXiv 2603.27707",
        functools.partial(one_after_another.forgets_less, BEST_RATE),
    ),
    "sequence_hardly_forgets": Claim(
        "Trained on tasks one after another, LoRA hardly forgets the earlier ones.",
        "arXiv 2603.27707",
        one_after_another.hardly_forgets,
    ),
    "sequence_at_equal_learning": Claim(
        "Trained on tasks one after another, LoRA forgets the earlier ones less than full"
        " finetuning does also where both have learned each task as well.",
        "asked here",
        functools.partial(one_after_another.forgets_less, PRIMARY),
    ),
}


@dataclass(frozen=True)
class Result:
    """A claim as a study checked it. p_holm: corrected for the number of claims."""

    name: str
    claim: Claim
    checked: Checked
    p_holm: float | None = None

    @property
    def evidence(self) -> str:
        """The numbers that the status rests on, or why it was not tested."""
        return self.checked.evidence


def check(findings: Findings) -> list[Result]:
    """Every claim about a study; a decision that Holm's correction takes back is undecided."""
    return check_all(CLAIMS, findings)


def check_all(claims: Mapping[str, Claim[Evidence]], evidence: Evidence) -> list[Result]:
    """Every one of these claims, corrected for their number as above."""
    checked = {name: claim.check(evidence) for name, claim in claims.items()}
    p_values = {name: one.p for name, one in checked.items() if one.p is not None}
    adjusted = holm(p_values)
    return [_result(name, claims[name], one, adjusted.get(name)) for name, one in checked.items()]


def _result(name: str, claim: Claim[Evidence], checked: Checked, p_holm: float | None) -> Result:
    if p_holm is not None and p_holm >= LEVEL and checked.status is not Status.UNDECIDED:
        evidence = f"{checked.evidence}; p after Holm {p_holm:.2g}"
        checked = dataclasses.replace(checked, status=Status.UNDECIDED, evidence=evidence)
    return Result(name, claim, checked, p_holm)
