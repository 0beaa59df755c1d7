"""HumanEval: Python functions completed from signature and docstring, decided by running them.

Chen et al. 2021, arXiv 2107.03374. Data: openai/human-eval, 164 problems, MIT licence. The first of
them, shortened, with its tests:

    from typing import List


    def has_close_elements(numbers: List[float], threshold: float) -> bool:
        \"\"\" Check if in given list of numbers, are any two numbers closer to each other than
        given threshold.
        >>> has_close_elements([1.0, 2.0, 3.0], 0.5)
        False
        \"\"\"

    def check(candidate):
        assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3) == True
        ...

Metric: pass@k, the probability that one of k samples passes all tests (`grading.pass_at_k`);
programs run in `evals.sandbox`. Three prompt formats:
- `humaneval`: bigcode-evaluation-harness's, with the prompt stripped; the paper's numbers.
- `humaneval_lm_eval`: lm-evaluation-harness's, with the prompt as it is.
- `humaneval_trained`: the prompt format of training, with the function's head as the question.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from lfl_jax.errors import UserError
from lfl_jax.evals.grading import code_text, pass_at_k
from lfl_jax.evals.sandbox import Program
from lfl_jax.evals.task import Inputs, Task

# How each harness asks a problem; `code_text` has its stop texts under the same name.
PROMPTS: dict[str, Callable[[str], str]] = {
    "humaneval-bigcode": str.strip,
    "humaneval-lm-eval": str,
}


@dataclass(frozen=True)
class Problem:
    """A function to complete.

    prompt: what the model continues, in the format `form`. head: the signature and docstring as
    code, after the imports and helpers of the problem.
    """

    id: str
    cluster: str
    prompt: str
    form: str
    head: str
    entry_point: str
    solution: str
    tests: str


def problems(inputs: Inputs, form: str = "humaneval-bigcode") -> list[Problem]:
    """All 164 problems, each its own cluster; raises UserError for an unknown form."""
    if form not in PROMPTS:
        raise UserError(f"unknown form of HumanEval {form!r}; there are: {', '.join(PROMPTS)}")
    return [problem(doc, form) for doc in inputs.docs("humaneval")]


def problem(doc: dict, form: str) -> Problem:
    """A problem from its document."""
    return Problem(
        id=doc["task_id"],
        cluster=doc["task_id"],
        prompt=PROMPTS[form](doc["prompt"]),
        form=form,
        head=doc["prompt"],
        entry_point=doc["entry_point"],
        solution=doc["canonical_solution"],
        tests=doc["test"],
    )


def extract(problem: Problem, text: str) -> str:
    """The program in a generated text, signature included."""
    # bigcode runs the prompt as the model saw it; it differs from the head by white space.
    head = problem.prompt if problem.form == "humaneval-bigcode" else problem.head
    return head + code_text.completion(problem.form, text)


def asked_as_trained(inputs: Inputs) -> list[Problem]:
    """All 164 problems, the head being the question in the prompt format of training."""
    return [
        dataclasses.replace(p, prompt=inputs.template.render(p.head.rstrip() + "\n", "")[0])
        for p in problems(inputs, "humaneval-lm-eval")
    ]


def extract_answer(problem: Problem, text: str) -> str:
    """The program in an answer: its first fenced block, or all of it.

    That is either the function, before which the head's imports and helpers are put, or its body,
    whose first line the format may have unindented.
    """
    # Chat models fence their code; a base model in a plain format does not.
    block = code_text.FENCED.search(text)
    code = block[1] if block else text
    definition = re.compile(rf"^def {problem.entry_point}\b", re.MULTILINE)
    signature = definition.search(problem.head)
    # A whole function: what it needs from the head (imports, helpers) comes before it.
    if signature and definition.search(code):
        return problem.head[: signature.start()] + code
    # A body: its first line gets the indentation that a format strips from a response.
    return f"{problem.head}    {code.lstrip()}"


def program(problem: Problem, code: str) -> Program:
    """The code with the problem's tests."""
    return Program(
        code=code + "\n",
        tests=f"{problem.tests}\ncheck({problem.entry_point})",
        entry_points=(problem.entry_point,),
        # Tests use helpers that the prompt defines: theirs come from there, not from the code.
        setup=problem.head + "    pass\n",
    )


def task(name: str, label: str, form: str) -> Task:
    """HumanEval with prompts, stop texts and rule of one harness."""
    items = functools.partial(problems, form=form)
    return pass_at_k.task(name, label, code_text.STOP[form], items, extract, program)


TASK = task("humaneval", "HumanEval", "humaneval-bigcode")
LM_EVAL = task("humaneval_lm_eval", "HumanEval (lm-eval)", "humaneval-lm-eval")
# No stop texts: the model was trained to end its answer by EOS.
TRAINED = pass_at_k.task(
    "humaneval_trained", "HumanEval asked as trained", (), asked_as_trained, extract_answer, program
)
