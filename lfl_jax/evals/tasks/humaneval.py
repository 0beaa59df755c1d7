"""HumanEval: functions completed from signature and docstring, tested by running them (Chen et al.,
2107.03374)."""

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from lfl_jax.errors import UserError
from lfl_jax.evals.grading import code_text, pass_at_k
from lfl_jax.evals.sandbox import Program
from lfl_jax.evals.task import Inputs, Task

# How each harness shows a problem; stop texts and what is cut from the completion have the same
# name in `code_text`.
PROMPTS: dict[str, Callable[[str], str]] = {
    "humaneval-bigcode": str.strip,
    "humaneval-lm-eval": str,
    "humaneval-lm-eval-instruct": lambda prompt: (
        "Write a solution to the following problem and make sure that it passes the tests:\n"
        f"```python\n{prompt}\n```\nHere is the completed function:\n```python\n{prompt}\n"
    ),
}


@dataclass(frozen=True)
class Problem:
    """`prompt` is what the model continues, in this `form`; `head` the signature and docstring as
    code."""

    id: str
    cluster: str
    prompt: str
    form: str
    head: str
    entry_point: str
    solution: str
    tests: str


def problems(inputs: Inputs, form: str = "humaneval-bigcode") -> list[Problem]:
    """All 164 problems without shots, every one its own cluster; raises UserError for an unknown
    form."""
    if form not in PROMPTS:
        raise UserError(f"unknown form of HumanEval {form!r}; there are: {', '.join(PROMPTS)}")
    return [problem(doc, form) for doc in inputs.docs("humaneval")]


def problem(doc: dict, form: str) -> Problem:
    """A problem from its document."""
    head, name = doc["prompt"], doc["task_id"]
    return Problem(
        name,
        name,
        PROMPTS[form](head),
        form,
        head,
        doc["entry_point"],
        doc["canonical_solution"],
        doc["test"],
    )


def extract(problem: Problem, text: str) -> str:
    """The code that a generated text makes, signature included."""
    head = problem.prompt if problem.form == "humaneval-bigcode" else problem.head
    return head + code_text.RULES[problem.form](text)


def asked_as_trained(inputs: Inputs) -> list[Problem]:
    """All 164 problems, signature and docstring being the question in the format the model is
    trained with."""
    plain = [problem(doc, "humaneval-lm-eval") for doc in inputs.docs("humaneval")]
    return [
        dataclasses.replace(p, prompt=inputs.template.render(p.head.rstrip() + "\n", "")[0])
        for p in plain
    ]


def extract_answer(problem: Problem, text: str) -> str:
    """The code of an answer, which is its first fenced block or all of it: either the function,
    which takes the head's imports and helpers before it, or the function's body, whose first line
    the format may have moved."""
    block = code_text.FENCED.search(text)
    code = block[1] if block else text
    signature = re.search(rf"^def {problem.entry_point}\b", problem.head, re.MULTILINE)
    if signature and re.search(rf"^def {problem.entry_point}\b", code, re.MULTILINE):
        return problem.head[: signature.start()] + code
    return f"{problem.head}    {code.lstrip()}"


def program(problem: Problem, code: str) -> Program:
    """The code with the problem's tests, which take their helpers from the prompt and not from the
    code."""
    return Program(
        code=code + "\n",
        tests=f"{problem.tests}\ncheck({problem.entry_point})",
        entry_points=(problem.entry_point,),
        setup=problem.head + "    pass\n",
    )


def task(name: str, label: str, form: str) -> Task:
    """The evaluation with prompts, stop texts and cuts of one form."""
    items = functools.partial(problems, form=form)
    return pass_at_k.task(name, label, code_text.STOP[form], items, extract, program)


TASK = task("humaneval", "HumanEval", "humaneval-bigcode")  # as in the paper
LM_EVAL = task("humaneval_lm_eval", "HumanEval (lm-eval)", "humaneval-lm-eval")
TRAINED = pass_at_k.task(
    "humaneval_trained", "HumanEval asked as trained", (), asked_as_trained, extract_answer, program
)
