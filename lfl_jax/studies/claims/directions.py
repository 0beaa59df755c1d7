"""The LoRA paper's claims about directions (2106.09685, sections 7.2 and 7.3, appendix H).

Similarity is of the factor A, as there. Two ranks are the lowest and the highest of the study, with
the same seed; two seeds are of the highest rank.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lfl_jax.statistics.effects import Effect, in_words, over_seeds
from lfl_jax.statistics.verdicts import Verdict, decide
from lfl_jax.studies import directions
from lfl_jax.studies.claims.claim import Checked, Claim, Status, of_decision, together, untested
from lfl_jax.studies.directions import FACTOR, INPUTS, OTHER, SAME, Directions, Overlap, Similarity

PAPER = "arXiv 2106.09685"
# phi of one direction that the paper calls shared, and the middle between random and most.
HALF = 0.5
# Of a direction: what is shared beyond random directions that nobody would call shared.
MARGIN = 0.1
# Directions beyond which the paper's figures show little.
FIRST = 4
# log10 of a ratio that nobody would care for.
LOG_MARGIN = math.log10(1.1)
ONE_RANK = "the study has no LoRA of two ranks"
NO_LORA = "the study has no LoRA whose factor A is known"


def top_is_shared(compared: Directions) -> Checked:
    """phi(1, 1) of the two ranks' A is above .5. Null: 1 / N of random directions."""
    overlaps = _of_ranks(compared)
    if not overlaps:
        return untested(ONE_RANK)
    phi = directions.similarity(overlaps, 1, 1, SAME)
    evidence = f"{_phi('phi(1, 1)', phi)}{_elsewhere(compared)}"
    return _against_half(phi.effect, Verdict.MORE, evidence)


def _against_half(effect: Effect, claimed: Verdict, evidence: str) -> Checked:
    """Whether an effect is certainly above one half, or below; the claimed one is reproduced."""
    low, high = effect.interval()
    # Of one half, which is the question, and not of no effect.
    p = effect.p_value(HALF)
    if math.isnan(low) or low <= HALF <= high:
        return Checked(Status.UNDECIDED, evidence, p)
    verdict = Verdict.MORE if low > HALF else Verdict.LESS
    status = Status.REPRODUCED if verdict is claimed else Status.CONTRADICTED
    return Checked(status, evidence, p)


def _elsewhere(compared: Directions) -> str:
    """The same of dW, and of runs with other seeds, for readers."""
    low, high = _two_ranks(compared)
    inputs = directions.similarity(compared.of(low, high, INPUTS), 1, 1, SAME)
    text = f"; of dW's inputs {inputs.effect.mean:.2f}"
    if len(compared.seeds) > 1:
        other = directions.similarity(compared.of(low, high, FACTOR), 1, 1, OTHER)
        text += f"; with other seeds {other.effect.mean:.2f}"
    return text


def others_are_not(compared: Directions) -> Checked:
    """Directions 2 to k of one rank and of the other overlap no more than random ones do."""
    overlaps = _of_ranks(compared)
    if not overlaps:
        return untested(ONE_RANK)
    # The lower rank has no more directions than that.
    k = min(FIRST, *overlaps[0].values.shape[2:])
    if k < 2:
        return untested("an adapter of rank 1 has no second direction")
    null = float(np.mean([(k - 1) ** 2 / one.size for one in overlaps]))
    beyond = over_seeds(np.diagonal(_rest(overlaps, k)) - null)
    label = f"of directions 2 to {k}, random ones share {null:.2f}; beyond these"
    return of_decision(decide(beyond, MARGIN), Verdict.EQUIVALENT, label)


def _rest(overlaps: list[Overlap], k: int) -> Float[np.ndarray, "S S"]:
    """||U^T V||_F^2 of the first k directions without the very first, the mean over weights."""
    means = np.mean([one.values for one in overlaps], axis=0)

    def squares(i: int, j: int) -> Float[np.ndarray, "S S"]:
        return means[..., i - 1, j - 1] * min(i, j)

    # Every pair (i, j) with both beyond the first, by inclusion and exclusion.
    return squares(k, k) - squares(1, k) - squares(k, 1) + squares(1, 1)


def seeds_share(compared: Directions) -> Checked:
    """The first directions of A under two seeds overlap more than random ones do."""
    if not compared.ranks:
        return untested(NO_LORA)
    arm = list(compared.ranks)[-1]
    overlaps = compared.of(arm, arm, FACTOR)
    if not overlaps or len(compared.seeds) < 2:
        return untested(NO_LORA if not overlaps else "one seed has no other to share with")
    k = min(FIRST, overlaps[0].values.shape[2])
    phi = directions.similarity(overlaps, k, k, OTHER)
    label = f"{arm}, {_phi(f'phi({k}, {k})', phi)}; of {k} directions, beyond random ones"
    return of_decision(decide(_times(k, phi.beyond), MARGIN), Verdict.MORE, label)


def _times(factor: int, effect: Effect) -> Effect:
    return dataclasses.replace(effect, mean=factor * effect.mean, se=factor * effect.se)


def is_above_random(compared: Directions) -> Checked:
    """W has more in a change's directions than in random ones."""

    def rule(arm: str) -> Checked:
        effect = over_seeds(_log_ratio(compared, arm, "in_own", "in_random"))
        label = f"{arm}: ||U^T W V|| {10**effect.mean:.3g} times that of random directions; log10"
        return of_decision(decide(effect, LOG_MARGIN), Verdict.MORE, label)

    return _of_every_lora(compared, rule)


def is_not_emphasised(compared: Directions) -> Checked:
    """W's share in a change's directions is nearer to that of random ones than to its own top's.

    On a log scale, 0 random and 1 W's first directions: the interval is below .5.
    """

    def rule(arm: str) -> Checked:
        over_random = _log_ratio(compared, arm, "in_own", "in_random")
        top_over_random = _log_ratio(compared, arm, "in_top", "in_random")
        effect = over_seeds(over_random / top_over_random)
        share = 10 ** float(np.mean(over_random - top_over_random))
        way = in_words(effect.mean, effect.interval(), ".2f")
        evidence = f"{arm}: {share:.2g} of what W's own first directions have, {way} of the way"
        return _against_half(effect, Verdict.LESS, evidence)

    return _of_every_lora(compared, rule)


def amplifies(compared: Directions) -> Checked:
    """||dW|| is larger than what W has in its directions: the factor is above 1."""

    def rule(arm: str) -> Checked:
        effect = over_seeds(_log_ratio(compared, arm, "change", "in_own"))
        random = 10 ** float(np.mean(_log_ratio(compared, arm, "change", "in_random")))
        label = f"{arm}: factor {10**effect.mean:.3g} (random directions {random:.3g}); log10"
        return of_decision(decide(effect, LOG_MARGIN), Verdict.MORE, label)

    return _of_every_lora(compared, rule)


def low_rank_amplifies_more(compared: Directions) -> Checked:
    """The factor of the lower rank is above that of the higher, seed by seed."""
    if len(compared.ranks) < 2:
        return untested(ONE_RANK)
    low, high = _two_ranks(compared)
    # Paired: both changes of a seed are of the same data in the same order.
    logs = [_log_ratio(compared, arm, "change", "in_own") for arm in (low, high)]
    factors = [10 ** float(np.mean(log)) for log in logs]
    label = f"factors {factors[0]:.3g} of {low}, {factors[1]:.3g} of {high}; log10 of the ratio"
    return of_decision(decide(over_seeds(logs[0] - logs[1]), LOG_MARGIN), Verdict.MORE, label)


def _of_every_lora(compared: Directions, rule: Callable[[str], Checked]) -> Checked:
    return together([rule(arm) for arm in compared.ranks], NO_LORA)


def _log_ratio(
    compared: Directions, arm: str, numerator: str, denominator: str
) -> Float[np.ndarray, " S"]:
    return directions.log_ratio(compared.amplified_by(arm), numerator, denominator)


def _two_ranks(compared: Directions) -> tuple[str, str]:
    arms = list(compared.ranks)
    return arms[0], arms[-1]


def _of_ranks(compared: Directions) -> list[Overlap]:
    """Of A, at the lowest and the highest rank; none where there is one rank, or no A."""
    return compared.of(*_two_ranks(compared), FACTOR) if len(compared.ranks) > 1 else []


def _phi(name: str, phi: Similarity) -> str:
    numbers = in_words(phi.effect.mean, phi.effect.interval(), ".2f")
    return f"{name} {numbers}, random {phi.random:.3f}"


CLAIMS: dict[str, Claim[Directions]] = {
    "top_is_shared": Claim(
        "LoRA of a low and of a high rank share their top direction, to more than one half.",
        f"{PAPER}, figure 3",
        top_is_shared,
    ),
    "others_are_not": Claim(
        "They share no direction beyond the top one.", f"{PAPER}, figure 3", others_are_not
    ),
    "seeds_share": Claim(
        "Two seeds of one rank share directions, and random matrices do not.",
        f"{PAPER}, figure 4",
        seeds_share,
    ),
    "above_random": Claim(
        "A change follows features of W: W has more in its directions than in random ones.",
        f"{PAPER}, table 7",
        is_above_random,
    ),
    "not_emphasised": Claim(
        "A change does not repeat W's top directions: it takes ones that W does not emphasise.",
        f"{PAPER}, table 7",
        is_not_emphasised,
    ),
    "amplifies": Claim(
        "A change is larger than what W has in its directions: it amplifies them.",
        f"{PAPER}, table 7",
        amplifies,
    ),
    "low_rank_amplifies_more": Claim(
        "The lower the rank, the more is amplified: 21.5 times at rank 4, about 2 at rank 64.",
        f"{PAPER}, appendix H.4",
        low_rank_amplifies_more,
    ),
}
