"""GSM8K answered with a chain of thought, as lm-evaluation-harness's gsm8k_cot and
gsm8k_cot_zeroshot ask for it.

The eight shots are those of Wei et al. (arXiv 2201.11903, table 20), whatever config.eval.shots
says; the answer is the number in "The answer is N.".
"""

import functools
import re

from lfl_jax.evals.grading import numbers
from lfl_jax.evals.task import Generate, Inputs, Task
from lfl_jax.evals.tasks import gsm8k
from lfl_jax.evals.tasks.gsm8k import Problem

# the last dot is any character, as in the harness
STRICT = re.compile(r"The answer is (\-?[0-9\.\,]+).")
STOP = ("Q:", "</s>", "<|im_end|>")
STEPS = " Let's think step by step."


def problems(inputs: Inputs) -> list[Problem]:
    """The test split after the eight worked examples."""
    head = inputs.preamble("".join(turn(*shot) for shot in inputs.fixed_shots()))
    return _problems(inputs, head, "")


def zero_shot(inputs: Inputs) -> list[Problem]:
    """The test split, each answer begun with "Let's think step by step."."""
    return _problems(inputs, "", STEPS)


def turn(question: str, answer: str) -> str:
    """A worked example, as it stands before the question; its last sentence becomes "The answer is
    N."."""
    answer = re.sub(r"(So the|The) answer is (\S+?)\.?$", r"The answer is \2.", answer.strip())
    return f"Q: {question}\nA: {answer}\n\n"


def _problems(inputs: Inputs, head: str, begun: str) -> list[Problem]:
    docs = enumerate(inputs.docs("gsm8k-test"))
    return [
        Problem(str(i), str(i), f"{head}Q: {doc['question']}\nA:{begun}", doc["answer"])
        for i, doc in docs
    ]


METHOD = Generate(STOP, functools.partial(gsm8k.record, pattern=STRICT))
# Without shots nothing shows the model the sentence that the strict match looks for.
FLEXIBLE_FIRST = (gsm8k.FLEXIBLE, gsm8k.STRICT, *numbers.format_metrics())
TASK = Task("gsm8k_cot", 2, "GSM8K CoT", problems, METHOD, gsm8k.METRICS)
ZERO_SHOT = Task("gsm8k_cot_zeroshot", 2, "GSM8K step by step", zero_shot, METHOD, FLEXIBLE_FIRST)
