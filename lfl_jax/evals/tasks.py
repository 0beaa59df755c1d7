"""Every evaluation by name. A new one is a file with its TASK, and a line here."""

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
    "gsm8k": gsm8k.TASK,
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
    "humaneval": humaneval.TASK,
    "humaneval_lm_eval": humaneval.LM_EVAL,
    "mbpp": mbpp.TASK,
    "mbpp_bigcode": mbpp.BIGCODE,
}
