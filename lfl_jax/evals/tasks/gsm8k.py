"""GSM8K: grade-school word problems, answered by a generated solution.

Cobbe et al. 2021, arXiv 2110.14168. Data: openai/gsm8k, test split, 1319 problems, MIT licence. The
first of them, with its gold solution:

    Question: Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and
    bakes muffins for her friends every day with four. She sells the remainder at the farmers'
    market daily for $2 per fresh duck egg. How much in dollars does she make every day at the
    farmers' market?
    Answer: Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.
    She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer's market.
    #### 18

The prompt ends at "Answer:", after config.eval.shots few-shot examples of the same form.
`gsm8k_trained` asks in the prompt format of training instead, without few-shot examples.

Metrics, as in lm-evaluation-harness's `gsm8k`: exact_match_strict compares the number after "####"
with the gold one, exact_match_flexible the last number in the text. Numbers are compared as
strings (`grading.numbers`).
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.evals.grading import numbers
from lfl_jax.evals.metrics import Metric
from lfl_jax.evals.task import Generate, Inputs, Record, Task, common_fields

SEED = 1234  # of the harness's few-shot examples: one random.Random for the whole task


@dataclass(frozen=True)
class Problem:
    """A prompt to continue and the gold solution.

    groups: kinds of problems it belongs to; metrics may be reported for each.
    """

    id: str
    cluster: str
    prompt: str
    gold: str
    groups: tuple[str, ...] = ()


def problems(inputs: Inputs) -> list[Problem]:
    """The test split after `inputs.shots` few-shot examples; every problem is its own cluster."""
    # The data has no ids: an id is the index in the split.
    docs = inputs.docs("gsm8k-test")
    few_shot = draw(inputs, len(docs))
    prompts = [
        "".join(map(solved, shots)) + prompt(doc) for doc, shots in zip(docs, few_shot, strict=True)
    ]
    return [Problem(str(i), str(i), prompts[i], doc["answer"]) for i, doc in enumerate(docs)]


def asked_as_trained(inputs: Inputs) -> list[Problem]:
    """The test split in the prompt format of training, without few-shot examples."""
    docs = inputs.docs("gsm8k-test")
    prompts = [inputs.template.render(doc["question"], "")[0] for doc in docs]
    return [Problem(str(i), str(i), prompts[i], doc["answer"]) for i, doc in enumerate(docs)]


def prompt(doc: dict) -> str:
    """A question, up to where its answer begins."""
    return f"Question: {doc['question']}\nAnswer:"


def solved(doc: dict) -> str:
    """A few-shot example: a question with its answer."""
    return f"{prompt(doc)} {doc['answer']}\n\n"


def draw(inputs: Inputs, count: int) -> list[Sequence[dict]]:
    """The few-shot examples of each of `count` problems.

    They are the same for all ("fixed"), or the harness's own draw ("lm_eval"). Raises UserError for
    more than there are.
    """
    if inputs.without_few_shot or inputs.shots == 0:
        return [()] * count
    # Examples of Wei et al. for all problems, or training problems drawn anew for each.
    drawn = inputs.shots_from == "lm_eval"
    if drawn:
        pool = inputs.docs("gsm8k-train")
    else:
        pool = [with_final_number(*shot) for shot in inputs.fixed_shots()]
    if inputs.shots > len(pool):
        raise UserError(
            f"config.eval.shots={inputs.shots} is too many: {inputs.shots_from!r} has {len(pool)}"
        )
    if not drawn:
        return [pool[: inputs.shots]] * count
    # One generator for all problems: a problem's draw depends on how many were before it.
    rng = random.Random(SEED)
    return [rng.sample(pool, inputs.shots) for _ in range(count)]


def with_final_number(question: str, answer: str) -> dict:
    """A chain-of-thought example in GSM8K's form: "So the answer is 6." becomes a line "#### 6"."""
    # Else the strict match, which looks for ####, would count correct answers as wrong.
    answer = re.sub(r"\s*(So the|The) answer is (\S+?)\.?$", r"\n#### \2", answer.strip())
    return {"question": question, "answer": answer}


def record(problem: Problem, text: str, pattern: re.Pattern = numbers.STRICT) -> Record:
    """The generated text, the numbers extracted from it, and whether each is right."""
    grade = numbers.grade(text, problem.gold, pattern)
    return common_fields(problem) | {"groups": list(problem.groups)} | grade


def details(inputs: Inputs) -> dict[str, Any]:
    """How many few-shot examples, and where they come from."""
    return {"shots": inputs.shots, "shots_from": inputs.shots_from if inputs.shots else "none"}


# The harness's exact_match under its two filters.
STRICT = Metric("exact_match_strict", "exact_strict", "strict match", chance=0.0)
FLEXIBLE = Metric("exact_match_flexible", "exact_flexible", "flexible match", chance=0.0)
METRICS = (STRICT, FLEXIBLE, *numbers.format_metrics())

# Raise a version when prompts or grading change: older records are then evaluated again.
METHOD = Generate(numbers.STOP, record)
TASK = Task("gsm8k", 4, "GSM8K", problems, METHOD, METRICS, details)
TRAINED = Task("gsm8k_trained", 1, "GSM8K asked as trained", asked_as_trained, METHOD, METRICS)
