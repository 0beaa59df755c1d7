"""Problems of reasoning_gym (extra `gym`): over a hundred tasks with the library's own scorers.

    data.source=reasoning_gym:chain_sum     the task's default settings, `data.size` problems drawn

They are split by question, so that no question of the test split is trained on. A problem's id
says how to draw it again, which its scorer needs.
"""

import ast
import difflib
import functools
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable
from typing import Any

from lfl_jax.data.examples import Example
from lfl_jax.data.splits import check, digest, split_index
from lfl_jax.errors import UserError

# Some scorers hand an answer to Python's or sympy's evaluation. A model's answer is untrusted text:
# one that is not of the form below never reaches them and counts as wrong. `evaluates` finds the
# scorers in the library's source.
LONGEST = 4000  # characters of an answer
SUM = re.compile(r"[\d\s+\-*/().]{1,200}")
# No names but a variable and these functions, no attribute, no tower of powers.
FORMULA = re.compile(
    r"(?!.*(\*\*|\^)[^+\-]*(\*\*|\^))"
    r"(?:\b(?:[a-zA-Z]|sin|cos|tan|exp|log|sqrt)\b|\d{1,9}(?:\.\d{1,9})?|[\s+\-*/()]"
    r"|(?:\*\*|\^)\(?-?\d{1,2}\b){1,200}"
)


def _is_literal(answer: str) -> bool:
    """True where evaluation computes nothing: a plain value, a name, or a syntax error."""
    try:
        expression = ast.parse(answer.strip(), mode="eval").body
        return isinstance(expression, ast.Name) or ast.literal_eval(expression) is not Ellipsis
    except (SyntaxError, MemoryError, RecursionError):
        return True
    except ValueError:  # Python, and no literal
        return False


def _is_like(form: re.Pattern) -> Callable[[str], bool]:
    return lambda answer: "**" not in answer.replace(" ", "") and form.fullmatch(answer) is not None


HARMLESS: dict[str, Callable[[str], bool]] = {
    "string_insertion": _is_literal,
    "spiral_matrix": _is_literal,
    "binary_matrix": _is_literal,
    "n_queens": _is_literal,
    "puzzle24": _is_like(SUM),
    "countdown": _is_like(SUM),
    "simple_integration": lambda answer: FORMULA.fullmatch(answer) is not None,
    "intermediate_integration": lambda answer: FORMULA.fullmatch(answer) is not None,
    "polynomial_multiplication": lambda answer: FORMULA.fullmatch(answer) is not None,
}


def check_installed() -> None:
    """Raise UserError where the library is missing."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError("problems of reasoning_gym need that library: pip install 'lfl_jax[gym]'")


def version() -> str:
    """Of the library, whose problems and scorers may change with it."""
    return importlib.metadata.version("reasoning_gym")


def source(task: str, split: str, size: int, seed: int) -> list[Example]:
    """The problems of a split; UserError for an unknown task, or one without written answers."""
    check(split, f"reasoning_gym:{task}")
    entries = _entries(task, seed, size)
    questions = [digest(entry["question"]) for entry in entries]
    answered = [int(i) for i in split_index(questions, split) if entries[i]["answer"] is not None]
    if not answered:
        raise UserError(
            f"reasoning_gym:{task} has no problem with an answer in split {split!r}; raise"
            " config.data.size"
        )
    return [
        Example(
            entries[i]["question"],
            str(entries[i]["answer"]),
            f"{task}/{seed}/{size}/{i}",
            f"{questions[i]:016x}",
        )
        for i in answered
    ]


def score(problem_id: str, answer: str) -> float:
    """The library's score, 0 to 1 (right), of an answer to the problem with this id."""
    task, seed, size, number = problem_id.split("/")
    if len(answer) > LONGEST or (task in HARMLESS and not HARMLESS[task](answer)):
        return 0.0
    dataset = _dataset(task, int(seed), int(size))
    try:
        return float(dataset.score_answer(answer=answer, entry=dataset[int(number)]))
    except Exception:  # a scorer may raise anything on a model's text: the answer is wrong
        return 0.0


# Every split of a run reads them, and some tasks take seconds a problem.
@functools.lru_cache(maxsize=2)
def _entries(task: str, seed: int, size: int) -> list[dict[str, Any]]:
    dataset = _dataset(task, seed, size)
    return [dataset[i] for i in range(size)]


@functools.lru_cache(maxsize=8)
def _dataset(task: str, seed: int, size: int) -> Any:
    check_installed()
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        near = ", ".join(difflib.get_close_matches(task, DATASETS, n=3, cutoff=0.4)) or ", ".join(
            sorted(DATASETS)
        )
        raise UserError(
            f"config.data.source=reasoning_gym:{task}: there is no such task; near are: {near}"
        )
    try:
        return reasoning_gym.create_dataset(task, seed=seed, size=size)
    # a task made of others, which have to be named
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(
            f"config.data.source=reasoning_gym:{task}: it has no default settings: {error}"
        ) from None


def evaluates() -> set[str]:
    """Tasks whose scorer evaluates an answer, by the source of the installed library."""
    check_installed()
    import reasoning_gym  # noqa: F401
    from reasoning_gym.factory import DATASETS

    tasks = set()
    for task, (dataset, _) in DATASETS.items():
        text = _source_of(dataset)
        if text and re.search(r"\b(eval|exec|parse_expr|sympify)\(\s*(answer|user|pred)", text):
            tasks.add(task)
    return tasks


def _source_of(dataset: type) -> str:
    import inspect

    return inspect.getsource(sys.modules[dataset.__module__])
