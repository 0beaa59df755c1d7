"""GSM8K: grade-school word problems answered by a generated solution (Cobbe et al., arXiv
2110.14168)."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.evals.grading import numbers
from lfl_jax.evals.metrics import Metric
from lfl_jax.evals.task import Generate, Inputs, Record, Task, common_fields

SEED = 1234  # of the harness's shots: one random.Random for the whole task


@dataclass(frozen=True)
class Problem:
    """A prompt to continue and the gold solution; `groups` are the kinds of problems it is of, for
    the summary."""

    id: str
    cluster: str
    prompt: str
    gold: str
    groups: tuple[str, ...] = ()


def problems(inputs: Inputs) -> list[Problem]:
    """The test split after `inputs.shots` worked examples, unless alone; every problem is its own
    cluster."""
    docs = inputs.docs("gsm8k-test")
    return [
        Problem(str(i), str(i), "".join(map(turn, shots)) + prompt(doc), doc["answer"])
        for i, (doc, shots) in enumerate(zip(docs, draw(inputs, len(docs)), strict=True))
    ]


def asked_as_trained(inputs: Inputs) -> list[Problem]:
    """The test split in the format the model is trained with, without shots."""
    docs = inputs.docs("gsm8k-test")
    prompts = [inputs.template.render(doc["question"], "")[0] for doc in docs]
    return [Problem(str(i), str(i), prompts[i], doc["answer"]) for i, doc in enumerate(docs)]


def prompt(doc: dict) -> str:
    """A question, up to where its answer begins."""
    return f"Question: {doc['question']}\nAnswer:"


def turn(doc: dict) -> str:
    """A worked example, as it stands before the question."""
    return f"{prompt(doc)} {doc['answer']}\n\n"


def draw(inputs: Inputs, count: int) -> list[Sequence[dict]]:
    """The shots of each of `count` problems: the same for all ("fixed"), or the harness's own draw
    ("lm_eval").

    Raises UserError for more shots than there are.
    """
    if inputs.without_few_shot or inputs.shots == 0:
        return [()] * count
    lm_eval = inputs.shots_from == "lm_eval"
    pool = (
        inputs.docs("gsm8k-train") if lm_eval else [rewrite(*shot) for shot in inputs.fixed_shots()]
    )
    if inputs.shots > len(pool):
        raise UserError(
            f"config.eval.shots={inputs.shots} is too many: {inputs.shots_from!r} has {len(pool)}"
        )
    rng = random.Random(SEED)
    return [
        rng.sample(pool, inputs.shots) if lm_eval else pool[: inputs.shots] for _ in range(count)
    ]


def rewrite(question: str, answer: str) -> dict:
    """A chain-of-thought example with GSM8K's own ending: "So the answer is 6." becomes a last line
    "#### 6"."""
    answer = re.sub(r"\s*(So the|The) answer is (\S+?)\.?$", r"\n#### \2", answer.strip())
    return {"question": question, "answer": answer}


def record(problem: Problem, text: str, pattern: re.Pattern = numbers.STRICT) -> Record:
    """The generated text, what was extracted from it, and whether that is right."""
    return (
        common_fields(problem)
        | {"groups": list(problem.groups)}
        | numbers.grade(text, problem.gold, pattern)
    )


def details(inputs: Inputs) -> dict[str, Any]:
    """How the prompts were made."""
    return {"shots": inputs.shots, "shots_from": inputs.shots_from if inputs.shots else "none"}


STRICT = Metric("exact_match_strict", "exact_strict", "strict match", chance=0.0)
FLEXIBLE = Metric("exact_match_flexible", "exact_flexible", "flexible match", chance=0.0)
# the harness's exact_match under its two filters
METRICS = (STRICT, FLEXIBLE, *numbers.format_metrics())
METHOD = Generate(numbers.STOP, record)
TASK = Task("gsm8k", 4, "GSM8K", problems, METHOD, METRICS, details)
TRAINED = Task("gsm8k_trained", 1, "GSM8K asked as trained", asked_as_trained, METHOD, METRICS)
