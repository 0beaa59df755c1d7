"""What an effect says about a question that was asked with a margin beforehand.

"More" and "less" need the 95 % interval on one side of zero, "equivalent" the 90 % interval inside
the margin (two one-sided tests at 5 %; Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15,
1987). Whatever is neither is undecided, and the smallest effect that would have been found is said.
"""

import enum
import math
from dataclasses import dataclass

from scipy import optimize, stats

from lfl_jax.errors import UserError
from lfl_jax.statistics.effects import LEVEL, Effect

POWER = 0.8


class Verdict(enum.StrEnum):
    """Of the first arm against the second."""

    MORE = "more"
    LESS = "less"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Decision:
    """A verdict with everything it rests on.

    p_difference: of no effect; p_equivalence: of an effect at the margin or beyond. reason: why it
    is undecided.
    """

    verdict: Verdict
    effect: Effect
    margin: float
    p_difference: float
    p_equivalence: float
    reason: str = ""

    @property
    def detectable(self) -> float:
        """The smallest true effect that this design finds with 80 % probability."""
        return minimal_detectable(self.effect.se, self.effect.df)

    @property
    def finds(self) -> str:
        """What the design can find, in words; "" where no error can be estimated."""
        if math.isnan(self.detectable):
            return ""
        return f"this design finds {self.detectable:.2g} with 80 % probability"


def decide(effect: Effect, margin: float, level: float = LEVEL) -> Decision:
    """The verdict on an effect; UserError for a margin that is not positive.

    An effect that is certainly not zero and certainly inside the margin is "equivalent": the margin
    says that nobody would care.
    """
    if not margin > 0:
        raise UserError(f"margin {margin}: expected a positive number, in the measure's unit")
    p_equivalence = equivalence(effect, margin)
    p_difference = effect.p_value()
    low, high = effect.interval(level)

    verdict, reason = Verdict.UNDECIDED, ""
    if math.isnan(low):
        reason = f"{effect.seeds} seed: no error can be estimated; at least 2 are needed"
    # First: what lies inside the margin is equivalent even if it is certainly not zero.
    elif p_equivalence < 1 - level:
        verdict = Verdict.EQUIVALENT
    elif low > 0:
        verdict = Verdict.MORE
    elif high < 0:
        verdict = Verdict.LESS
    else:
        reason = f"the interval holds 0 and reaches beyond the margin of {margin:g}"
    return Decision(verdict, effect, margin, p_difference, p_equivalence, reason)


def equivalence(effect: Effect, margin: float) -> float:
    """The p-value of two one-sided tests: of an effect of at least `margin`, either way."""
    if not effect.df > 0:
        return math.nan
    # Without any error the answer is the comparison itself.
    if effect.se == 0:
        return float(abs(effect.mean) >= margin)
    # Of the two tests the one against the nearer margin decides.
    distance = (margin - abs(effect.mean)) / effect.se
    return float(stats.t.sf(distance, effect.df))


def minimal_detectable(se: float, df: float, level: float = LEVEL, power: float = POWER) -> float:
    """The effect whose t-test at this error rejects zero with this probability."""
    if not df > 0 or math.isnan(se):
        return math.nan
    critical = float(stats.t.ppf((1 + level) / 2, df))

    # The other tail of the two-sided test adds less than a millionth at this power.
    def missing(shift: float) -> float:
        return float(stats.nct.sf(critical, df, shift)) - power

    return se * float(optimize.brentq(missing, 0.0, critical + 10.0))
