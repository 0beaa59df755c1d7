"""Every evaluation by name. A new one is a file with its TASK, and a line here."""

from lfl_jax.errors import UserError
from lfl_jax.evals import (
    arc_challenge,
    gauntlet,
    gsm8k,
    gsm8k_cot,
    hellaswag,
    humaneval,
    math_problems,
    mbpp,
    mmlu,
    perplexity,
    source_test,
    uuid_recall,
    winogrande,
)
from lfl_jax.evals.base import Task

TASKS: dict[str, Task] = {
    "source_test": source_test.TASK,
    "source_test_plain": source_test.PLAIN,
    "source_test_shots": source_test.SHOTS,
    "gsm8k": gsm8k.TASK,
    "gsm8k_trained": gsm8k.TRAINED,
    "target_nll": perplexity.TARGET_NLL,
    "source_nll": perplexity.SOURCE_NLL,
    "uuid_recall": uuid_recall.TASK,
    "hellaswag": hellaswag.TASK,
    "arc_challenge": arc_challenge.TASK,
    "winogrande": winogrande.TASK,
    "hellaswag_gauntlet": gauntlet.HELLASWAG,
    "arc_challenge_gauntlet": gauntlet.ARC_CHALLENGE,
    "winogrande_gauntlet": gauntlet.WINOGRANDE,
    "mmlu": mmlu.TASK,
    "mmlu_5shot": mmlu.FIVE_SHOT,
    "gsm8k_cot": gsm8k_cot.TASK,
    "gsm8k_cot_zeroshot": gsm8k_cot.ZERO_SHOT,
    "math": math_problems.TASK,
    "math_minerva": math_problems.MINERVA,
    "math_minerva_lm_eval": math_problems.LM_EVAL,
    "humaneval": humaneval.TASK,
    "humaneval_lm_eval": humaneval.LM_EVAL,
    "humaneval_trained": humaneval.TRAINED,
    "mbpp": mbpp.TASK,
    "mbpp_bigcode": mbpp.BIGCODE,
}


def find(name: str) -> Task:
    """The task of a name; UserError lists the names there are."""
    if name not in TASKS:
        raise UserError(f"unknown evaluation {name!r}; there are: {', '.join(TASKS)}")
    return TASKS[name]
