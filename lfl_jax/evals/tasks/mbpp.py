"""MBPP: short Python functions from a sentence and three asserts, decided by running them.

Austin et al. 2021, arXiv 2108.07732. Data: google-research-datasets/mbpp, test split, 500 problems,
CC-BY-4.0 licence. The first of them, in the prompt of lm-evaluation-harness's `mbpp`, which comes
after three solved problems of the prompt split:

    You are an expert Python programmer, and here is your task: Write a python function to remove
    first and last occurrence of a given character from the string. Your code should pass these
    tests:

    assert remove_Occ("hello","l") == "heo"
    assert remove_Occ("abcda","a") == "bcd"
    assert remove_Occ("PHP","P") == "H"
    [BEGIN]

`mbpp_bigcode` asks as bigcode-evaluation-harness does, after InCoder: the sentence and the first
assert as a docstring, without solved problems.

Metric: pass@k, the probability that one of k samples passes all asserts (`grading.pass_at_k`);
programs run in `evals.sandbox`.
"""

import ast
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from lfl_jax.errors import UserError
from lfl_jax.evals.grading import code_text, pass_at_k
from lfl_jax.evals.sandbox import Program
from lfl_jax.evals.task import Inputs, Task

# The first three problems of the prompt split, as lm-evaluation-harness has them, with their stray
# blanks and line ends: a prompt without them would be another one.
SHOTS = (
    {
        "text": "Write a function to find the similar elements from the given two tuple lists.",
        "code": "def similar_elements(test_tup1, test_tup2):\r\n"
        "  res = tuple(set(test_tup1) & set(test_tup2))\r\n  return (res) ",
        "test_list": [
            "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)",
            "assert similar_elements((1, 2, 3, 4),(5, 4, 3, 7)) == (3, 4)",
            "assert similar_elements((11, 12, 14, 13),(17, 15, 14, 13)) == (13, 14)",
        ],
    },
    {
        "text": "Write a python function to identify non-prime numbers.",
        "code": "import math\r\ndef is_not_prime(n):\r\n    result = False\r\n"
        "    for i in range(2,int(math.sqrt(n)) + 1):\r\n        if n % i == 0:\r\n"
        "            result = True\r\n    return result",
        "test_list": [
            "assert is_not_prime(2) == False",
            "assert is_not_prime(10) == True",
            "assert is_not_prime(35) == True",
        ],
    },
    {
        "text": "Write a function to find the largest integers from a given list of numbers "
        "using heap queue algorithm.",
        "code": "import heapq as hq\r\ndef heap_queue_largest(nums,n):\r\n"
        "  largest_nums = hq.nlargest(n, nums)\r\n  return largest_nums",
        "test_list": [
            "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],3)==[85, 75, 65] ",
            "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],2)==[85, 75] ",
            "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],5)==[85, 75, 65, 58,"
            " 35]",
        ],
    },
)


@dataclass(frozen=True)
class Problem:
    """A function to write.

    prompt: what the model continues, in the format `form`. entry_points: names of the solution that
    the tests use. setup: code that some tests need before them; it uses classes of the solution.
    """

    id: str
    cluster: str
    prompt: str
    form: str
    solution: str
    tests: str
    setup: str
    entry_points: tuple[str, ...]


def problems(inputs: Inputs, form: str = "mbpp-lm-eval") -> list[Problem]:
    """The 500 problems of the test split, each its own cluster; UserError for an unknown form."""
    if form not in PROMPTS:
        raise UserError(f"unknown form of MBPP {form!r}; there are: {', '.join(PROMPTS)}")
    return [problem(doc, form, inputs.without_few_shot) for doc in inputs.docs("mbpp-test")]


def problem(doc: dict, form: str, without_few_shot: bool = False) -> Problem:
    """A problem from its document."""
    # The solved problems are left out where decontamination looks at the problem alone.
    few_shot, question = PROMPTS[form]
    tests = "\n".join(doc["test_list"])
    setup = doc.get("test_setup_code") or ""
    return Problem(
        id=str(doc["task_id"]),
        cluster=str(doc["task_id"]),
        prompt=("" if without_few_shot else few_shot) + question(doc),
        form=form,
        solution=doc["code"],
        tests=tests,
        setup=setup,
        entry_points=entry_points(f"{doc['code']}\n{setup}", tests),
    )


def entry_points(solution: str, tests: str) -> tuple[str, ...]:
    """The names in the tests that the reference solution defines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some solutions have escapes like "\\w" in plain strings
        body = ast.parse(solution).body
    # Functions, classes and assigned names at the top level: what tests can call.
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    return tuple(sorted(used & defined))


def question(doc: dict) -> str:
    """A problem with its three asserts, up to where the code begins (lm-eval)."""
    tests = "\n".join(doc["test_list"][:3])
    return (
        f"You are an expert Python programmer, and here is your task: {doc['text']} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def docstring(doc: dict) -> str:
    """The sentence and the first assert as a docstring (bigcode)."""
    return f'"""\n{doc["text"]}\n{doc["test_list"][0]}\n"""\n'


# (few-shot examples, the problem itself) of each harness; `code_text` has its stop texts under the
# same name.
PROMPTS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "mbpp-lm-eval": (
        "".join(f"{question(shot)}{shot['code']}\n[DONE]\n\n" for shot in SHOTS),
        question,
    ),
    "mbpp-bigcode": ("", docstring),
}


def extract(problem: Problem, text: str) -> str:
    """The program in a generated text."""
    return code_text.completion(problem.form, text)


def program(problem: Problem, code: str) -> Program:
    """The code with the problem's asserts.

    Setup code runs after the code and is as untrusted, since it needs its classes. The harnesses
    leave it out, so with them the one problem of the test split that has it (367) always fails.
    """
    return Program(f"{code}\n{problem.setup}\n", problem.tests, problem.entry_points)


def task(name: str, label: str, form: str) -> Task:
    """MBPP with prompts, stop texts and rule of one harness."""
    items = functools.partial(problems, form=form)
    return pass_at_k.task(name, label, code_text.STOP[form], items, extract, program)


TASK = task("mbpp", "MBPP", "mbpp-lm-eval")
BIGCODE = task("mbpp_bigcode", "MBPP (bigcode)", "mbpp-bigcode")
