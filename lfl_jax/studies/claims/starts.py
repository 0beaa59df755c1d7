"""Claims about LoRA's start and its best learning rate (arXiv 2602.06204)."""

import math

import numpy as np

from lfl_jax.statistics import learning_rates
from lfl_jax.statistics.effects import in_words
from lfl_jax.studies.best_rates import rate_ratio
from lfl_jax.studies.claims.claim import Checked, Status, together, untested
from lfl_jax.studies.claims.variants import families
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import FULL, LORA

INIT = "adapter.init"
# Rates a factor of two apart are one rate: sweeps have no finer steps than 1.5.
FACTOR = math.log10(2)
# The power of the rank that the best rate falls with, at a constant factor alpha / r.
POWER = -0.5


def rate_carries_over(findings: Findings) -> Checked:
    """LoRA from A = 0 has the best rate of full finetuning, to within a factor of 2."""
    kinds = findings.traits
    loras = [name for name, one in kinds.items() if one.settings.get(INIT) == "a_zero"]
    fulls = [name for name, one in kinds.items() if one.kind == FULL]
    checks = [
        _is_one(findings, lora, full)
        for lora in loras
        for full in fulls
        if kinds[lora].kind == LORA
    ]
    return together(checks, "the study has no LoRA from A = 0 beside full finetuning")


def _is_one(findings: Findings, lora: str, full: str) -> Checked:
    ratio = rate_ratio(lora, full, findings.grids)
    if ratio.log10 is None:
        return Checked(Status.UNDECIDED, ratio.reason)
    low, high = ratio.log10.interval()
    evidence = f"{lora} : {full} = {ratio}"
    p = ratio.log10.p_value()
    if low > -FACTOR and high < FACTOR:
        return Checked(Status.REPRODUCED, evidence)
    if low > 0 or high < 0:
        return Checked(Status.CONTRADICTED, evidence, p)
    return Checked(Status.UNDECIDED, f"{evidence}: neither 1 nor within a factor of 2", p)


def rate_falls_with_rank(findings: Findings) -> Checked:
    """From A random and B = 0, the best rate goes with the rank to the power of -1/2.

    Of arms that differ in their rank alone, alpha being a constant times it. Null: a power of 0.
    """
    checks = []
    for family in families(findings):
        settings = [findings.traits[method].settings for method in family]
        factors = {one["adapter.alpha"] / one["adapter.rank"] for one in settings if one}
        if len(factors) == 1 and settings[0][INIT] != "a_zero":
            checks.append(_power_of_rank(findings, family))
    return together(checks, "no arms of LoRA from B = 0 that differ in their rank alone")


def _power_of_rank(findings: Findings, family: list[str]) -> Checked:
    optima = {one.method: one.optimum for one in findings.best_rates}
    missing = [method for method in family if optima[method] is None]
    if missing:
        return untested(f"the best rate of {missing[0]} is not known")
    rates = [optima[method].log10 for method in family]
    ranks = np.log10([findings.traits[method].rank for method in family])
    power = learning_rates.slope(ranks, rates)
    numbers = in_words(power.mean, power.interval(), "+.2f")
    evidence = f"{', '.join(family)}: best rate over rank, power {numbers}"
    low, high = power.interval()
    if low <= POWER <= high and high < 0:
        return Checked(Status.REPRODUCED, evidence, power.p_value())
    if not low <= POWER <= high:
        return Checked(Status.CONTRADICTED, evidence, power.p_value(POWER))
    return Checked(
        Status.UNDECIDED, f"{evidence}: 0 and -1/2 cannot be told apart", power.p_value()
    )
