"""Every evaluation by name.

A new one is one file in this folder, with its items, its records, its metrics and its TASK, and one
line in TASKS below. `gsm8k` is a good one to begin from. Nothing else has to know of it: the run's
table, results.json, TensorBoard and the comparison of runs iterate over a task's metrics. (One of
your own needs no line: name it FILE.py:NAME in config.eval.tasks.)
"""

from collections.abc import Iterable, Mapping, Sequence

from lfl_jax.config import EvalConfig, own_code
from lfl_jax.errors import UserError
from lfl_jax.evals.task import Task
from lfl_jax.evals.tasks import (
    arc_challenge,
    divergence,
    gauntlet,
    gsm8k,
    gsm8k_cot,
    held_out_problems,
    hellaswag,
    humaneval,
    lab,
    lab_keys,
    lab_transitions,
    math_problems,
    mbpp,
    mmlu,
    perplexity,
    reasoning_gym,
    uuid_recall,
    winogrande,
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        # learning, by the training source
        held_out_problems.TASK,
        held_out_problems.PLAIN,
        held_out_problems.SHOTS,
        # learning maths
        gsm8k.TASK,
        gsm8k.TRAINED,
        # likelihood of the training source, and of general text
        perplexity.TARGET_NLL,
        perplexity.SOURCE_NLL,
        # distance from the base on the same two
        divergence.TARGET_KL,
        divergence.SOURCE_KL,
        divergence.BASE_SAMPLE_KL,
        # learning, of generated sources
        uuid_recall.TASK,
        reasoning_gym.TASK,
        lab.NEW_FACTS,
        lab.FURTHER_FACTS,
        lab.RULE,
        lab_transitions.TASK,
        lab_keys.TASK,
        # forgetting of the lab's source world
        lab.SOURCE_FACTS,
        # forgetting: common sense and knowledge, as lm-evaluation-harness scores them
        hellaswag.TASK,
        arc_challenge.TASK,
        winogrande.TASK,
        # the same three as the paper scores them: its forgetting score is their mean
        gauntlet.HELLASWAG,
        gauntlet.ARC_CHALLENGE,
        gauntlet.WINOGRANDE,
        # more knowledge and maths, by other prompts and rules
        mmlu.TASK,
        mmlu.FIVE_SHOT,
        gsm8k_cot.TASK,
        gsm8k_cot.ZERO_SHOT,
        math_problems.TASK,
        math_problems.MINERVA,
        math_problems.LM_EVAL,
        # learning code, by running programs
        humaneval.TASK,
        humaneval.LM_EVAL,
        humaneval.TRAINED,
        mbpp.TASK,
        mbpp.BIGCODE,
    )
}


def find(name: str, tasks: Mapping[str, Task] = TASKS) -> Task:
    """The task of a name; UserError lists the known names."""
    if name not in tasks:
        raise UserError(
            f"unknown evaluation {name!r}; there are: {', '.join(tasks)}. Your own is"
            " FILE.py:NAME:n, or passed in Python again: own=lfl_jax.Own(tasks=[...])"
        )
    return tasks[name]


def named(
    config: EvalConfig, names: Iterable[str], own_tasks: Sequence[Task] = ()
) -> dict[str, Task]:
    """All tasks that "name:n" and "FILE.py:NAME:n" may mean.

    The built-in ones, `own_tasks`, and those of files that the config names. Raises UserError for a
    name that is used twice, and for a file that may not run.
    """
    files = [name for name in config.items(tuple(names)) if own_code.is_place(name)]
    from_files = {file: own_code.find(config.code, "eval.tasks", file, is_task) for file in files}
    # A file may be named twice, for two limits; its task counts once.
    distinct = {id(task): task for task in from_files.values()}
    with_own([*own_tasks, *distinct.values()])
    return with_own(own_tasks) | from_files


def is_task(value: object) -> bool:
    """True for an evaluation; files of one's own may hold anything."""
    return isinstance(value, Task)


def with_own(own_tasks: Sequence[Task]) -> dict[str, Task]:
    """The built-in tasks and these; UserError for a name that is taken."""
    tasks = dict(TASKS)
    for task in own_tasks:
        if task.name in tasks:
            raise UserError(
                f"there is already an evaluation called {task.name!r}: give your task another name"
            )
        tasks[task.name] = task
    return tasks


def check_tasks(names: Iterable[str], tasks: Mapping[str, Task] = TASKS) -> None:
    """Raise UserError for an unknown task, and for one that lacks something on this machine."""
    for name in names:
        find(name, tasks).check()
