"""GSM8K answered by a chain of thought, in lm-evaluation-harness's two prompts for it.

Data as in `gsm8k`. `gsm8k_cot` (the harness's gsm8k_cot) shows the eight examples of Wei et al.
2022 (arXiv 2201.11903, table 20), whatever config.eval.shots says, the first of which is:

    Q: There are 15 trees in the grove. Grove workers will plant trees in the grove today. After
    they are done, there will be 21 trees. How many trees did the grove workers plant today?
    A: There are 15 trees originally. Then there were 21 trees after some more were planted. So
    there must have been 21 - 15 = 6. The answer is 6.

`gsm8k_cot_zeroshot` shows none and begins the answer:

    Q: Janet's ducks lay 16 eggs per day. ...
    A: Let's think step by step.

Metrics: as in `gsm8k`, but exact_match_strict takes the number of the first "The answer is N.".
Without examples nothing tells the model to write that sentence, so `gsm8k_cot_zeroshot` has
exact_match_flexible as its main metric.
"""

import functools
import re

from lfl_jax.evals.grading import numbers
from lfl_jax.evals.task import Generate, Inputs, Task
from lfl_jax.evals.tasks import gsm8k
from lfl_jax.evals.tasks.gsm8k import Problem

# The last dot is any character, as in the harness.
STRICT = re.compile(r"The answer is (\-?[0-9\.\,]+).")
# A model that goes on asks the next question itself; the others are the harness's.
STOP = ("Q:", "</s>", "<|im_end|>")
STEPS = " Let's think step by step."


def problems(inputs: Inputs) -> list[Problem]:
    """The test split after the eight few-shot examples."""
    # All eight, in the paper's order.
    few_shot = "".join(solved(*shot) for shot in inputs.fixed_shots())
    return _problems(inputs, inputs.preamble(few_shot), "")


def zero_shot(inputs: Inputs) -> list[Problem]:
    """The test split, each answer begun with "Let's think step by step."."""
    return _problems(inputs, "", STEPS)


def solved(question: str, answer: str) -> str:
    """A few-shot example; its last sentence becomes "The answer is N."."""
    answer = re.sub(r"(So the|The) answer is (\S+?)\.?$", r"The answer is \2.", answer.strip())
    return f"Q: {question}\nA: {answer}\n\n"


def _problems(inputs: Inputs, preamble: str, answer_start: str) -> list[Problem]:
    docs = inputs.docs("gsm8k-test")
    prompts = [f"{preamble}Q: {doc['question']}\nA:{answer_start}" for doc in docs]
    return [Problem(str(i), str(i), prompts[i], doc["answer"]) for i, doc in enumerate(docs)]


# The records are GSM8K's, with another pattern for the strict match.
METHOD = Generate(STOP, functools.partial(gsm8k.record, pattern=STRICT))
FLEXIBLE_FIRST = (gsm8k.FLEXIBLE, gsm8k.STRICT, *numbers.format_metrics())
TASK = Task("gsm8k_cot", 2, "GSM8K CoT", problems, METHOD, gsm8k.METRICS)
ZERO_SHOT = Task("gsm8k_cot_zeroshot", 2, "GSM8K step by step", zero_shot, METHOD, FLEXIBLE_FIRST)
