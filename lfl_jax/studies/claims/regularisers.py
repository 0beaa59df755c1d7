"""Whether LoRA keeps the base's abilities better than weight decay and dropout do.

Figure 4 of the paper: full finetuning with weight decay, or with attention dropout, learns and
forgets about as full finetuning does; LoRA of rank 16 forgets least, and learns least.
"""

from lfl_jax.statistics.verdicts import Verdict
from lfl_jax.studies import answers
from lfl_jax.studies.answers import BEST_RATE
from lfl_jax.studies.claims.claim import Checked, of_decision, together, untested
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import DERIVED, LORA

NO_ARMS = "no arm without LoRA has weight decay or dropout"
NO_LORA = "no arm of LoRA has neither weight decay nor dropout"


def keeps_more(findings: Findings) -> Checked:
    """LoRA forgets less than every regularised arm, each at its best learning rate.

    As the paper compares: what each learned is not equal. A contrast of the same arms is at equal
    learning.
    """
    regularised = [
        method
        for method, traits in findings.traits.items()
        if traits.regulariser and traits.kind not in (LORA, DERIVED)
    ]
    if not regularised:
        return untested(NO_ARMS)
    # A LoRA with weight decay would have both.
    loras = [
        method
        for method, traits in findings.traits.items()
        if traits.kind == LORA and not traits.regulariser
    ]
    return together(
        [_keeps_more(findings, lora, other) for lora in loras for other in regularised], NO_LORA
    )


def _keeps_more(findings: Findings, lora: str, other: str) -> Checked:
    grids = findings.grids[lora], findings.grids[other]
    answer = answers.ask(BEST_RATE, *grids, findings.question.margin)
    if answer.decision is None:
        return untested(answer.reason)
    regulariser = findings.traits[other].regulariser
    return of_decision(answer.decision, Verdict.LESS, f"{lora} – {other} ({regulariser}):")
