"""Whether finetuning gains more than worked examples in the prompt of the base do.

"Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning" (arXiv
2205.05638) compares both on the same few examples. Here LoRA trains on more than a prompt holds,
and both are scored on the same held-out questions. A prompted base forgets nothing: what LoRA
forgets for its lead stands beside it.
"""

from lfl_jax.statistics.effects import in_words, over_seeds_and_items
from lfl_jax.statistics.verdicts import Verdict
from lfl_jax.studies.claims.claim import Checked, Status, together
from lfl_jax.studies.claims.lora_and_full import of_learning
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.traits import LORA

NO_ARMS = "the study has no prompted base beside LoRA"


def lora_learns_more(findings: Findings) -> Checked:
    """LoRA at its best rate learns more than the base with its best number of examples.

    Both are chosen on the other seeds, whose examples in the prompt are others, too.
    """
    prompted = [name for name, grid in findings.grids.items() if grid.is_prompted]
    loras = [name for name, traits in findings.traits.items() if traits.kind == LORA]
    pairs = [(lora, other) for lora in loras for other in prompted]
    return together([_learns_more(findings, *pair) for pair in pairs], NO_ARMS)


def _learns_more(findings: Findings, lora: str, prompted: str) -> Checked:
    checked = of_learning(findings, (lora, prompted), Verdict.MORE, reference=lora)
    if checked.status is Status.UNTESTED:
        return checked
    first, second = findings.grids[lora], findings.grids[prompted]
    shots = second.cells[second.most_learned].mark
    forgotten = over_seeds_and_items(first.arm.y.part(first.most_learned))
    price = in_words(forgotten.mean, forgotten.interval(), "+.3g")
    evidence = f"{checked.evidence}; the base learned most with {shots}, and {lora} forgets {price}"
    return Checked(checked.status, evidence, checked.p)
